/* SPDX-License-Identifier: Apache-2.0 */
#include "lua_bindings.h"

#include <stddef.h>

#include "lua_loop.h"

const struct lua_binding lua_bindings[] = {
	{"flowd.loop", lua_loop_open},
	{NULL, NULL},
};
