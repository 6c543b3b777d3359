/* SPDX-License-Identifier: Apache-2.0 */
/* lua_loop.h - Lua module "flowd.loop": the event loop (libevent). */
#ifndef LUA_LOOP_H
#define LUA_LOOP_H

#include <lua.h>

struct event_base;

int lua_loop_open(lua_State *L);

/* The process's event base, for the other bindings. Made when first asked for. */
struct event_base *lua_loop_base(void);

/* Close every handle of a state: none of its callbacks is called any more. */
void lua_loop_close_all(lua_State *L);

#endif
