/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - start LuaJIT and hand the command line to lua/flowd/cli.lua.
 */
#include <lauxlib.h>
#include <lualib.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "handover.h"
#include "lua_call.h"
#include "lua_state.h"

/* --lua-path must be known before the first Lua file is loaded. */
static const char *find_lua_path(int argc, char **argv)
{
	static const char option[] = "--lua-path";
	size_t len = sizeof(option) - 1;

	for (int i = 1; i < argc; i++) {
		if (strncmp(argv[i], option, len) != 0)
			continue;
		if (argv[i][len] == '=')
			return argv[i] + len + 1;
		if (argv[i][len] == '\0' && i + 1 < argc)
			return argv[i + 1];
	}
	return NULL;
}

int main(int argc, char **argv)
{
	lua_State *L;
	int status = EXIT_FAILURE;

	handover_init(argv);
	/* The one thread that there is beside us, marker_early.h, needs no memory apart. */
	mallopt(M_ARENA_MAX, 1);
	/* Large blocks stay mappings of their own, also when one was freed: of zeros no page is touched. */
	mallopt(M_MMAP_THRESHOLD, 128 * 1024);
	L = lua_state_new(find_lua_path(argc, argv));
	if (!L) {
		fputs("flowd-lua: out of memory\n", stderr);
		return EXIT_FAILURE;
	}
	/* A peer that closes its end is an error of that write, not the end of us. */
	signal(SIGPIPE, SIG_IGN);

	lua_getglobal(L, "require");
	lua_pushliteral(L, "flowd.cli");
	if (lua_call_traced(L, 1, 1) == 0) {
		lua_getfield(L, -1, "main");
		lua_newtable(L);
		for (int i = 0; i < argc; i++) {
			lua_pushstring(L, argv[i]);
			lua_rawseti(L, -2, i);
		}
		if (lua_call_traced(L, 1, 1) == 0)
			status = (int)lua_tointeger(L, -1);
		else
			fprintf(stderr, "flowd-lua: internal error: %s\n", lua_tostring(L, -1));
	} else {
		fprintf(stderr, "flowd-lua: cannot start: %s\n", lua_tostring(L, -1));
	}
	lua_state_close(L);
	return status;
}
