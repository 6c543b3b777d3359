/* SPDX-License-Identifier: Apache-2.0 */
/* lua_protect.h - Lua module "flowd.protect": a protected call that compiled code can return from. */
#ifndef LUA_PROTECT_H
#define LUA_PROTECT_H

#include <lua.h>

int lua_protect_open(lua_State *L);

#endif
