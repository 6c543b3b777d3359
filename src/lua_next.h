/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lua_next.h - next() and pairs() that LuaJIT does not compile.
 *
 * LuaJIT before April 2022, Debian 12's among them, can lose the upper half of a pointer in the machine code
 * of a loop over pairs(): seldom, and then the process dies (its issue 829). Calls of C functions stay calls.
 */
#ifndef LUA_NEXT_H
#define LUA_NEXT_H

#include <lua.h>

/* Put them in the place of the state's own where LuaJIT is that old. */
void lua_next_install(lua_State *L);

#endif
