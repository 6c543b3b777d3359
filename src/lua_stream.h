/* SPDX-License-Identifier: Apache-2.0 */
/* lua_stream.h - Lua module "flowd.stream_core": what happens to streams (stream.h) is told to Lua. */
#ifndef LUA_STREAM_H
#define LUA_STREAM_H

#include <lua.h>

int lua_stream_open(lua_State *L);

#endif
