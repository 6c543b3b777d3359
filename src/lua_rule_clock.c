// SPDX-License-Identifier: Apache-2.0
#include "lua_rule_clock.h"

#include <lauxlib.h>
#include <stdbool.h>
#include <stdint.h>

#include "clock.h"
#include "rule_clock.h"

/*
 * run(functions, clock): call a chain's steps on the event in the cell, each timed, until one returns true.
 * `clock`: the address, as a number, of a struct rule_clock for as many steps.
 *
 * Each is called from C, so that LuaJIT compiles it by itself, and what is measured is what runs
 * otherwise. An error passes; then the step that raised it is in clock->step.
 */
static int run(lua_State *L)
{
	struct rule_clock *c = (struct rule_clock *)(uintptr_t)luaL_checknumber(L, 2);
	uint64_t now;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	now = clock_monotonic_ns();
	for (uint32_t i = 0; i < c->steps; i++) {
		bool over;

		rule_clock_step(c, i, now);
		lua_rawgeti(L, 1, (int)i + 1);
		lua_call(L, 0, 1);
		now = clock_monotonic_ns();
		rule_clock_lap(c, now);
		over = lua_toboolean(L, -1);
		lua_pop(L, 1);
		if (over)
			break;
	}
	rule_clock_event(c);
	return 0;
}

static const luaL_Reg functions[] = {
	{"run", run},
	{NULL, NULL},
};

int lua_rule_clock_open(lua_State *L)
{
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
