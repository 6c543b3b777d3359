/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lua_state.h - a Lua state that knows the embedded modules and the bindings.
 */
#ifndef LUA_STATE_H
#define LUA_STATE_H

#include <lua.h>
#include "heap.h"

/*
 * A new state. Modules come from the binary or, when lua_path is not NULL, from files
 * below that directory ("flowd/rules.lua"), which win over the embedded ones.
 * LUA_PATH and LUA_CPATH are ignored. NULL when out of memory. Its memory is a heap without a limit; to be
 * closed by lua_state_close().
 */
lua_State *lua_state_new(const char *lua_path);
void lua_state_close(lua_State *L);

/* Another one, whose memory is a heap (borrowed until the state is closed). Modules come from where those
 * of the first state come from. */
lua_State *lua_state_new_on(struct heap *h);

/* The heap of a state. */
struct heap *lua_state_heap(lua_State *L);

#endif
