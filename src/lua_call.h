/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lua_call.h - the one way in which C enters Lua.
 *
 * Errors carry a traceback, are logged at a limited rate and never reach the
 * caller's C frames; the Lua stack is as high afterwards as it was before.
 */
#ifndef LUA_CALL_H
#define LUA_CALL_H

#include <lua.h>

/* Once for each state, before the other functions. Raises when memory is short. */
void lua_call_install(lua_State *L);

/* An error handler for lua_pcall: adds a traceback to the message. What it says may take from the reserve of
 * memory (heap.h). */
int lua_call_traceback(lua_State *L);

/* As lua_pcall, with a traceback in the error message. */
int lua_call_traced(lua_State *L, int arguments, int results);

/* Call the function and its arguments on top of the stack; drop results. `what` names
 * the caller in the log. Returns 0, or -1 when the call raised (which is logged). */
int lua_call_logged(lua_State *L, int arguments, const char *what);

#endif
