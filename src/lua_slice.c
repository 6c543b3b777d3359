/* SPDX-License-Identifier: Apache-2.0 */
#include "lua_slice.h"

#include <lauxlib.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "clock.h"
#include "slice_timer.h"

/* Sources of the framework's functions begin so; those of the site never do: they are paths of files. */
#define FRAMEWORK "@lua/"
/* In the registry: sources of the framework that may be left in the middle, each true. */
#define MAY_BE_LEFT "flowd.slice.may_be_left"

enum {
	/* Instructions between two looks at the clock: some ten microseconds. */
	COUNT = 500,
	/* The same where the time is spent and it cannot be left: the end of that is awaited. */
	COUNT_WAITING = 100,
	/* Where a coroutine cannot be left (inside a callback of a C function) it may go on for so long
	 * after its time; then an error ends it. */
	PATIENCE_NS = 200000000,
	/* The same for what was typed, where others wait: metamethods that the framework runs into,
	   callbacks. */
	PATIENCE_TYPED_NS = 2000000,
	/* Levels of the stack that are looked at: finding one takes as long as it is deep. */
	LEVELS = 300,
};

static int count = COUNT;

/* The step in hand, and those that it interrupts: a step may lead to a step of another coroutine. */
struct step {
	lua_State *co;
	uint64_t deadline_ns;
	/* By the CPU clock: its time is spent, and what was typed has been seen where it cannot be left,
	 * since then; 0: not yet. */
	uint64_t spent_ns, typed_ns;
	bool anywhere; /* it may be left wherever it is */
	bool interrupted;
	bool overdue;
	struct step *outer;
};

static struct step *volatile current;

/*
 * Others run between two steps, on the same data. What was typed and the site's own functions may find it
 * changed, but each function of the framework is as good as one instruction, unless its file says that it
 * may be left.
 */
static bool may_leave(lua_State *L)
{
	bool may = true;
	lua_Debug ar;
	int level;

	lua_getfield(L, LUA_REGISTRYINDEX, MAY_BE_LEFT);
	for (level = 0; may && level < LEVELS && lua_getstack(L, level, &ar); level++) {
		lua_getinfo(L, "S", &ar);
		if (strncmp(ar.source, FRAMEWORK, sizeof(FRAMEWORK) - 1) != 0)
			continue;
		lua_getfield(L, -1, ar.source);
		may = lua_toboolean(L, -1);
		lua_pop(L, 1);
	}
	lua_pop(L, 1);
	return may;
}

/* Is it what was typed at the console that runs, or a function of C for it? */
static bool is_typed(lua_State *L)
{
	lua_Debug ar;

	for (int level = 0; level < LEVELS && lua_getstack(L, level, &ar); level++) {
		lua_getinfo(L, "S", &ar);
		if (*ar.what != 'C')
			return strcmp(ar.source, "=console") == 0 || strcmp(ar.source, "=watch") == 0;
	}
	return false;
}

static bool can_leave(lua_State *L, const struct step *step)
{
	/* Another thread is a coroutine inside this one: only its own resumer could go on with it. */
	if (L != step->co || !lua_isyieldable(L))
		return false;
	if (step->anywhere)
		return !step->overdue;
	/* The framework may have caught the error of what was typed. */
	return (!step->overdue || !is_typed(L)) && may_leave(L);
}

/* It cannot be left here: is it to end with an error? Others that had the processor meanwhile are not its
 * fault. Rules that a client's events come to are no part of this. */
static bool is_too_long(lua_State *L, struct step *step)
{
	uint64_t now = clock_cpu_ns();

	if (step->spent_ns == 0)
		step->spent_ns = now;
	if (now - step->spent_ns >= PATIENCE_NS)
		return true;
	if (step->anywhere || L != step->co || !is_typed(L))
		return false;
	if (step->typed_ns == 0)
		step->typed_ns = now;
	return now - step->typed_ns >= PATIENCE_TYPED_NS;
}

static void on_count(lua_State *L, lua_Debug *ar)
{
	struct step *step = current;

	(void)ar;
	if (!step || clock_monotonic_ns() < step->deadline_ns)
		return;
	if (can_leave(L, step)) {
		step->interrupted = true;
		lua_yield(L, 0);
		return;
	}
	if (!is_too_long(L, step)) {
		if (!step->overdue && count > COUNT_WAITING && lua_gethookcount(L) != COUNT_WAITING)
			lua_sethook(L, on_count, LUA_MASKCOUNT, COUNT_WAITING);
		return;
	}
	/* Whatever catches this error gets the next one at its first instruction. */
	if (!step->overdue) {
		step->overdue = true;
		lua_sethook(L, on_count, LUA_MASKCOUNT, 1);
	}
	luaL_error(
		L,
		"this takes too long where it cannot be interrupted: inside a metamethod or another function "
		"that the daemon or a function of C calls");
}

/*
 * In a signal handler: the time is spent, and a few instructions that take long each may be all that there
 * was since the last look. Changing the count of a hook that is set is what LuaJIT allows there.
 */
static void on_time(void)
{
	struct step *step = current;

	if (step && lua_gethook(step->co) == on_count)
		lua_sethook(step->co, on_count, LUA_MASKCOUNT, 1);
}

static void set_timer(const struct step *step)
{
	uint64_t now = clock_monotonic_ns();

	slice_timer_begin(step->deadline_ns > now ? step->deadline_ns - now : 0, on_time);
}

/* Resume with the hook set, and put back the hook that was there. */
static int resume(lua_State *L, lua_State *co, int arguments, uint64_t budget_ns, bool anywhere,
		  bool *interrupted)
{
	struct step step = {.co = co, .anywhere = anywhere, .outer = current};
	lua_Hook hook = lua_gethook(L);
	int mask = lua_gethookmask(L);
	int count_before = lua_gethookcount(L);
	int status;

	step.deadline_ns = clock_monotonic_ns() + budget_ns;
	current = &step;
	lua_sethook(L, on_count, LUA_MASKCOUNT, count);
	set_timer(&step);
	status = lua_resume(co, arguments);
	slice_timer_end();
	lua_sethook(L, hook, mask, count_before);
	current = step.outer;
	if (current)
		set_timer(current);
	*interrupted = step.interrupted;
	return status;
}

/*
 * step(thread, budget_ns, anywhere, ...) -> "more", values passed to coroutine.yield
 *                                         | "done", results
 *                                         | "error", the error, traceback
 * The values after `anywhere` (see may_leave) are the function's arguments, or what its coroutine.yield
 * returns; they are ignored when it is the budget that interrupted it.
 */
static int step_thread(lua_State *L)
{
	lua_State *co = lua_tothread(L, 1);
	double budget_ns = luaL_checknumber(L, 2);
	bool anywhere = lua_toboolean(L, 3);
	int arguments = lua_gettop(L) - 3;
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
	lua_settop(L, 3 + arguments);
	luaL_argcheck(L, lua_checkstack(co, arguments + 1), 1, "too many arguments");
	lua_xmove(L, co, arguments);

	status = resume(L, co, arguments, (uint64_t)budget_ns, anywhere, &interrupted);

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

/* spent(wherever) -> is this a slice whose time is up and, unless wherever = true, that may be left here? */
static int spent(lua_State *L)
{
	bool wherever = lua_toboolean(L, 1);

	lua_pushboolean(L, current && current->co == L && (wherever || lua_isyieldable(L)) &&
				   clock_monotonic_ns() >= current->deadline_ns);
	return 1;
}

/* count(instructions) -> what it was: how often the clock is looked at. For tests: 1 is everywhere. */
static int set_count(lua_State *L)
{
	lua_Integer wanted = luaL_checkinteger(L, 1);

	luaL_argcheck(L, wanted >= 1 && wanted <= 1000000, 1, "expected 1 to 1000000");
	lua_pushinteger(L, count);
	count = (int)wanted;
	return 1;
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
	lua_pushcfunction(L, spent);
	lua_setfield(L, -2, "spent");
	lua_pushcfunction(L, set_count);
	lua_setfield(L, -2, "count");
	lua_newtable(L);
	lua_pushvalue(L, -1);
	lua_setfield(L, LUA_REGISTRYINDEX, MAY_BE_LEFT);
	lua_setfield(L, -2, "may_be_left");
	return 1;
}
