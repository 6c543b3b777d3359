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
#include <sys/resource.h>

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

/*
 * Scripts that call each other through functions of C without end are stopped by LuaJIT when their own stack
 * is full: after some 7,000 calls of string.gsub, say, each of which takes 9 KiB of ours. Only what is really
 * used is taken from the system, which leaves 128 MiB of addresses for it.
 */
static void allow_deep_calls(void)
{
	const rlim_t enough = 100 << 20;
	struct rlimit limit;

	if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur >= enough)
		return;
	limit.rlim_cur = limit.rlim_max < enough ? limit.rlim_max : enough;
	setrlimit(RLIMIT_STACK, &limit);
}

int main(int argc, char **argv)
{
	lua_State *L;
	int status = EXIT_FAILURE;

	handover_init(argv);
	allow_deep_calls();
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
