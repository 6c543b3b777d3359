/* SPDX-License-Identifier: Apache-2.0 */
#include "lua_call.h"

#include <assert.h>
#include <lauxlib.h>
#include <stdbool.h>

#include "log.h"
#include "lua_state.h"
#include "watchdog.h"

enum { MESSAGE_MAX = 1 << 14 }; /* octets of an error's message */

/* The error as text, pushed: what a table's __tostring says is still the script's doing. */
static const char *text_of(lua_State *L, size_t *length)
{
	const char *text = lua_tolstring(L, 1, length);
	bool raised = false;

	if (!text && luaL_getmetafield(L, 1, "__tostring")) {
		lua_pushvalue(L, 1);
		raised = lua_pcall(L, 1, 1, 0) != 0;
		text = raised ? NULL : lua_tolstring(L, -1, length);
	}
	/* What is said about the error may take from the reserve. Whoever entered the script leaves it. */
	heap_leave_script(lua_state_heap(L), 0);
	if (text)
		return text;
	lua_pushfstring(L, "error object is no string (a %s%s)", luaL_typename(L, 1),
			raised ? ", whose __tostring raised an error" : "");
	return lua_tolstring(L, -1, length);
}

int lua_call_traceback(lua_State *L)
{
	size_t length;
	const char *message = text_of(L, &length);

	if (length > MESSAGE_MAX) {
		lua_pushlstring(L, message, MESSAGE_MAX);
		message = lua_pushfstring(L, "%s... (%f octets in all)", lua_tostring(L, -1),
					  (lua_Number)length);
	}
	luaL_traceback(L, L, message, 1);
	return 1;
}

/* In the registry. */
static const char HANDLER[] = "flowd.traceback";

void lua_call_install(lua_State *L)
{
	lua_pushcfunction(L, lua_call_traceback);
	lua_setfield(L, LUA_REGISTRYINDEX, HANDLER);
}

int lua_call_traced(lua_State *L, int arguments, int results)
{
	int base = lua_gettop(L) - arguments;
	int status;

	/* Nobody would catch it if there were no memory to make one now. */
	lua_getfield(L, LUA_REGISTRYINDEX, HANDLER);
	lua_insert(L, base);
	status = lua_pcall(L, arguments, results, base);
	lua_remove(L, base);
	return status;
}

int lua_call_logged(lua_State *L, int arguments, const char *what)
{
	static struct log_limit limit;
	int base = lua_gettop(L) - arguments - 1;
	uint32_t mark = watchdog_mark();
	int status = lua_call_traced(L, arguments, 0);

	/* An error passes by whoever would have left. */
	watchdog_leave(mark);
	if (status != 0) {
		const char *message = lua_tostring(L, -1);

		uint32_t suppressed;

		if (log_limit_pass(&limit, &suppressed)) {
			log_error("%s: a callback raised (%u others held back):", what, suppressed);
			log_lines(LOG_LEVEL_ERROR, message ? message : "(error object is no string)");
		}
		lua_pop(L, 1);
	}
	assert(lua_gettop(L) == base);
	return status == 0 ? 0 : -1;
}
