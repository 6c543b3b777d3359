/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lua_policy.h - Lua module "flowd.policy_core": Lua states that can be thrown away, for site policy.
 *
 * The main state runs the daemon, its plugins and backends. Rules, maps and configuration files live in a
 * policy state, which has memory of its own (heap.h). Values go across as copies (lua_copy.h). A call may
 * lead back into the main state (flowd.host), and from there into the policy state again.
 */
#ifndef LUA_POLICY_H
#define LUA_POLICY_H

#include <lua.h>

int lua_policy_open(lua_State *L);

#endif
