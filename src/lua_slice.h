/* SPDX-License-Identifier: Apache-2.0 */
/* lua_slice.h - Lua module "flowd.slice_core": runs a coroutine for a limited time. See lua/flowd/slice.lua.
 */
#ifndef LUA_SLICE_H
#define LUA_SLICE_H

#include <lua.h>

int lua_slice_open(lua_State *L);

#endif
