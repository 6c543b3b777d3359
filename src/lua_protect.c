// SPDX-License-Identifier: Apache-2.0
#include "lua_protect.h"

#include <lauxlib.h>

#include "lua_call.h"
#include "lua_state.h"

/*
 * protect.call(fn, ...) -> true, or false and the error with a traceback.
 *
 * Memory is limited as it is for scripts (heap.h).
 *
 * As xpcall with debug.traceback, without fn's results. What xpcall calls cannot return in machine
 * code: LuaJIT gives up the trace that leads there ("NYI: return to lower frame"), four times for
 * each way that a loop ends. To a C function it can.
 */
static int protect_call(lua_State *L)
{
	struct heap *heap = lua_state_heap(L);
	bool before;
	int status;

	luaL_checktype(L, 1, LUA_TFUNCTION);
	before = heap && heap_enter_script(heap);
	status = lua_call_traced(L, lua_gettop(L) - 1, 0);
	if (heap)
		heap_leave_script(heap, before);
	if (status == 0) {
		lua_pushboolean(L, 1);
		return 1;
	}
	lua_pushboolean(L, 0);
	lua_insert(L, -2);
	return 2;
}

static const luaL_Reg functions[] = {
	{"call", protect_call},
	{NULL, NULL},
};

int lua_protect_open(lua_State *L)
{
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
