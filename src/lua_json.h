/* SPDX-License-Identifier: Apache-2.0 */
/* lua_json.h - Lua module "flowd.json_parser": reads JSON (RFC 8259) by jansson. */
#ifndef LUA_JSON_H
#define LUA_JSON_H

#include <lua.h>

int lua_json_open(lua_State *L);

#endif
