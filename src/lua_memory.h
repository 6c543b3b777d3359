/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lua_memory.h - memory that is refused to machine code.
 *
 * Refused memory is an ordinary Lua error where the interpreter or a C function asks for it. Machine code
 * does not keep the state's stack in order while it runs, and LuaJIT releases before 2023 (Debian 12's) do
 * not either before they raise that error: the process dies, or goes on in the wrong function. So machine
 * code gets what it asks for and is left at its next garbage collection, which is at once; then the
 * interpreter raises the error. Where it has twice the limit by then, the process is replaced, as for a
 * script that never returns (watchdog.h).
 *
 * Whether machine code runs, LuaJIT does not tell, nor how many texts there are (heap_set_texts()); where it
 * notes both is found out once in a process.
 */
#ifndef LUA_MEMORY_H
#define LUA_MEMORY_H

#include <lua.h>
#include "heap.h"

/* For a state whose memory is this heap. Runs protected; raises when memory is short. */
void lua_memory_install(lua_State *L, struct heap *h);

#endif
