/* SPDX-License-Identifier: Apache-2.0 */
#include "lua_bindings.h"

#include <stddef.h>

#include "lua_json.h"
#include "lua_loop.h"
#include "lua_policy.h"
#include "lua_protect.h"
#include "lua_resolver.h"
#include "lua_rule_clock.h"
#include "lua_slice.h"
#include "lua_stream.h"

const struct lua_binding lua_bindings[] = {
	{"flowd.json_parser", lua_json_open},
	{"flowd.loop", lua_loop_open},
	{"flowd.policy_core", lua_policy_open},
	{"flowd.protect", lua_protect_open},
	{"flowd.resolver_core", lua_resolver_open},
	{"flowd.rule_clock_core", lua_rule_clock_open},
	{"flowd.slice_core", lua_slice_open},
	{"flowd.stream_core", lua_stream_open},
	{NULL, NULL},
};
