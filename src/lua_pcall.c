/* SPDX-License-Identifier: Apache-2.0 */
#include "lua_pcall.h"

#include <lauxlib.h>

/* Functions of Lua, not of C: what they call may leave its coroutine. */
static const char source[] = "local off, pcall, xpcall = jit.off, pcall, xpcall\n"
			     "local function call(...) return pcall(...) end\n"
			     "local function call_handled(...) return xpcall(...) end\n"
			     "off(call) off(call_handled)\n"
			     "_G.pcall, _G.xpcall = call, call_handled\n";

void lua_pcall_install(lua_State *L)
{
	if (luaL_loadbuffer(L, source, sizeof(source) - 1, "=[pcall]") != 0)
		lua_error(L);
	lua_call(L, 0, 0);
}
