/* SPDX-License-Identifier: Apache-2.0 */
/* lua_resolver.h - Lua module "flowd.resolver_core": names to addresses (libevent's evdns). */
#ifndef LUA_RESOLVER_H
#define LUA_RESOLVER_H

#include <lua.h>

int lua_resolver_open(lua_State *L);

#endif
