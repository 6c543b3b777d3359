/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lua_pcall.h - pcall() and xpcall() that LuaJIT does not compile.
 *
 * Compiled, they leave no frame behind that an error could be caught at. That is no matter for errors, before
 * which machine code is left; but memory that is refused (heap.h) is an error inside of it, which then passes
 * by the pcall, or ends the process. What they call is compiled as ever.
 */
#ifndef LUA_PCALL_H
#define LUA_PCALL_H

#include <lua.h>

/* Put them in the place of the state's own. Raises when memory is short. */
void lua_pcall_install(lua_State *L);

#endif
