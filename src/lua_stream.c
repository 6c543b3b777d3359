/* SPDX-License-Identifier: Apache-2.0 */
#include "lua_stream.h"

#include <lauxlib.h>

#include "lua_call.h"
#include "lua_loop.h"
#include "stream.h"

/* All else about streams Lua does through FFI. */
static lua_State *listener;
static int callback = LUA_NOREF;

static void tell(uint32_t id, uint32_t event)
{
	if (callback == LUA_NOREF)
		return;
	lua_rawgeti(listener, LUA_REGISTRYINDEX, callback);
	lua_pushnumber(listener, id);
	lua_pushinteger(listener, (lua_Integer)event);
	lua_call_logged(listener, 2, "streams");
}

/* listen(function(id, event)): called for every stream, from now on. */
static int stream_listen(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TFUNCTION);
	/* What is set up inside a coroutine outlives it. */
	lua_getfield(L, LUA_REGISTRYINDEX, "flowd.main_thread");
	listener = lua_tothread(L, -1) ? lua_tothread(L, -1) : L;
	lua_settop(L, 1);
	luaL_unref(L, LUA_REGISTRYINDEX, callback);
	callback = luaL_ref(L, LUA_REGISTRYINDEX);
	return 0;
}

static const luaL_Reg functions[] = {
	{"listen", stream_listen},
	{NULL, NULL},
};

int lua_stream_open(lua_State *L)
{
	stream_setup(lua_loop_base(), tell);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
