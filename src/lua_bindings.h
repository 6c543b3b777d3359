/* SPDX-License-Identifier: Apache-2.0 */
/* lua_bindings.h - the list of Lua modules that are written in C. */
#ifndef LUA_BINDINGS_H
#define LUA_BINDINGS_H

#include <lua.h>

struct lua_binding {
	const char *module;
	lua_CFunction open;
};

/* Ends with an entry whose module is NULL. */
extern const struct lua_binding lua_bindings[];

#endif
