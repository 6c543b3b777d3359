/* SPDX-License-Identifier: Apache-2.0 */
#include "lua_slice.h"

#include <lauxlib.h>
#include <stdbool.h>
#include <stdint.h>

#include "clock.h"

enum {
	/* Instructions between two looks at the clock: some ten microseconds. */
	COUNT = 500,
	/* Where a coroutine cannot be left (inside a callback of a C function) it may go on for so long
	 * after its time; then an error ends it. */
	PATIENCE_NS = 200000000,
};

/* The step in hand, and those that it interrupts: a step may lead to a step of another coroutine. */
struct step {
	lua_State *co;
	uint64_t deadline_ns;
	bool interrupted;
	bool overdue;
	struct step *outer;
};

static struct step *current;

static void on_count(lua_State *L, lua_Debug *ar)
{
	struct step *step = current;
	uint64_t now;

	(void)ar;
	if (!step)
		return;
	now = clock_monotonic_ns();
	if (now < step->deadline_ns)
		return;
	/* Another thread is a coroutine inside this one: only its own resumer could go on with it. */
	if (L == step->co && lua_isyieldable(L) && !step->overdue) {
		step->interrupted = true;
		lua_yield(L, 0);
		return;
	}
	if (now - step->deadline_ns < PATIENCE_NS)
		return;
	/* Whatever catches this error gets the next one at its first instruction. */
	if (!step->overdue) {
		step->overdue = true;
		lua_sethook(L, on_count, LUA_MASKCOUNT, 1);
	}
	luaL_error(L,
		   "this takes too long where it cannot be interrupted: inside a function that table.sort, "
		   "string.gsub or another C function calls");
}

/* Resume with the hook set, and put back the hook that was there. */
static int resume(lua_State *L, lua_State *co, int arguments, uint64_t budget_ns, bool *interrupted)
{
	struct step step = {.co = co, .outer = current};
	lua_Hook hook = lua_gethook(L);
	int mask = lua_gethookmask(L);
	int count = lua_gethookcount(L);
	int status;

	step.deadline_ns = clock_monotonic_ns() + budget_ns;
	current = &step;
	lua_sethook(L, on_count, LUA_MASKCOUNT, COUNT);
	status = lua_resume(co, arguments);
	lua_sethook(L, hook, mask, count);
	current = step.outer;
	*interrupted = step.interrupted;
	return status;
}

/*
 * step(thread, budget_ns, ...) -> "more", values passed to coroutine.yield
 *                               | "done", results
 *                               | "error", the error, traceback
 * The values after budget_ns are the function's arguments, or what its coroutine.yield returns; they
 * are ignored when it is the budget that interrupted it.
 */
static int step_thread(lua_State *L)
{
	lua_State *co = lua_tothread(L, 1);
	double budget_ns = luaL_checknumber(L, 2);
	int arguments = lua_gettop(L) - 2;
	int status, results;
	bool interrupted;

	luaL_argcheck(L, co && co != L, 1, "expected a coroutine other than the running one");
	luaL_argcheck(L, budget_ns >= 0 && budget_ns < 1e18, 2, "expected nanoseconds, 0 or more");
	status = lua_status(co);
	luaL_argcheck(L, status == LUA_YIELD || (status == 0 && lua_gettop(co) > 0), 1,
		      "this coroutine has ended");
	/* Left by the budget, its stack is the interrupted function's. */
	lua_pushvalue(L, 1);
	lua_rawget(L, lua_upvalueindex(1));
	if (lua_toboolean(L, -1))
		arguments = 0;
	lua_settop(L, 2 + arguments);
	luaL_argcheck(L, lua_checkstack(co, arguments + 1), 1, "too many arguments");
	lua_xmove(L, co, arguments);

	status = resume(L, co, arguments, (uint64_t)budget_ns, &interrupted);

	lua_settop(L, 2);
	if (status != 0 && status != LUA_YIELD) {
		lua_pushliteral(L, "error");
		lua_xmove(co, L, 1);
		luaL_traceback(L, co, NULL, 0);
		return 3;
	}
	lua_pushvalue(L, 1);
	lua_pushboolean(L, interrupted);
	lua_rawset(L, lua_upvalueindex(1));
	results = interrupted ? 0 : lua_gettop(co);
	luaL_checkstack(L, results + 1, "too many results");
	lua_pushstring(L, status == LUA_YIELD ? "more" : "done");
	lua_xmove(co, L, results);
	return results + 1;
}

int lua_slice_open(lua_State *L)
{
	lua_newtable(L);
	/* Threads that the budget interrupted: weak keys. */
	lua_newtable(L);
	lua_newtable(L);
	lua_pushliteral(L, "k");
	lua_setfield(L, -2, "__mode");
	lua_setmetatable(L, -2);
	lua_pushcclosure(L, step_thread, 1);
	lua_setfield(L, -2, "step");
	return 1;
}
