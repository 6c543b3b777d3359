// SPDX-License-Identifier: Apache-2.0
#include "lua_protect.h"

#include <lauxlib.h>

#include "lua_call.h"
#include "lua_state.h"

/* On the stack: the error handler, the function, its arguments. Nothing is allocated behind the call. */
static int run(lua_State *L, uint32_t (*enter)(struct heap *h), uint32_t owner)
{
	struct heap *heap = lua_state_heap(L);
	uint32_t before = enter ? enter(heap) : 0;
	uint32_t acting = heap_act_as(heap, owner);
	int status = lua_pcall(L, lua_gettop(L) - 2, 0, 1);

	heap_act_as(heap, acting);
	if (enter)
		heap_leave_script(heap, before);
	lua_pushboolean(L, status == 0);
	if (status == 0)
		return 1;
	lua_insert(L, -2);
	return 2;
}

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
	luaL_checktype(L, 1, LUA_TFUNCTION);
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_insert(L, 1);
	return run(L, heap_enter_script, 0);
}

/* protect.call_rules(fn, ...): the same of what runs rules, whose numbers stand where heap_set_owner() was
 * told. */
static int protect_call_rules(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TFUNCTION);
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_insert(L, 1);
	return run(L, heap_enter_rules, 0);
}

/* protect.call_as(owner, fn, ...): the same; what it takes of memory is that owner's (heap.h). */
static int protect_call_as(lua_State *L)
{
	uint32_t owner = (uint32_t)luaL_checkinteger(L, 1);

	luaL_checktype(L, 2, LUA_TFUNCTION);
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_replace(L, 1);
	return run(L, NULL, owner);
}

static int open_function(lua_State *L, const char *name, lua_CFunction fn)
{
	lua_pushcfunction(L, lua_call_traceback);
	lua_pushcclosure(L, fn, 1);
	lua_setfield(L, -2, name);
	return 1;
}

int lua_protect_open(lua_State *L)
{
	lua_newtable(L);
	open_function(L, "call", protect_call);
	open_function(L, "call_rules", protect_call_rules);
	return open_function(L, "call_as", protect_call_as);
}
