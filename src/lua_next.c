/* SPDX-License-Identifier: Apache-2.0 */
#include "lua_next.h"

#include <lauxlib.h>
#include <luajit.h>
#include <string.h>

static int next_entry(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 2);
	if (lua_next(L, 1))
		return 2;
	lua_pushnil(L);
	return 1;
}

/* Upvalue: next_entry. */
static int pairs(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TTABLE);
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_pushvalue(L, 1);
	lua_pushnil(L);
	return 3;
}

void lua_next_install(lua_State *L)
{
	/* Releases since are numbered by date, without that word. */
	if (!strstr(LUAJIT_VERSION, "beta"))
		return;
	lua_pushcfunction(L, next_entry);
	lua_pushvalue(L, -1);
	lua_setglobal(L, "next");
	lua_pushcclosure(L, pairs, 1);
	lua_setglobal(L, "pairs");
}
