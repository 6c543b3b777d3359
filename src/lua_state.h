/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lua_state.h - a Lua state that knows the embedded modules and the bindings.
 */
#ifndef LUA_STATE_H
#define LUA_STATE_H

#include <lua.h>

/*
 * A new state. Modules come from the binary or, when lua_path is not NULL, from files
 * below that directory ("flowd/rules.lua"), which win over the embedded ones.
 * LUA_PATH and LUA_CPATH are ignored. NULL when out of memory.
 */
lua_State *lua_state_new(const char *lua_path);

#endif
