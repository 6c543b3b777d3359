/* SPDX-License-Identifier: Apache-2.0 */
/* lua_rule_clock.h - Lua module "flowd.rule_clock_core": rules run one by one, with a clock around each. */
#ifndef LUA_RULE_CLOCK_H
#define LUA_RULE_CLOCK_H

#include <lua.h>

int lua_rule_clock_open(lua_State *L);

#endif
