/* SPDX-License-Identifier: Apache-2.0 */
#include "lua_memory.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "watchdog.h"

enum {
	/* struct lua_State of LuaJIT 2.1 for 64 bits: where the pointer to what all threads share is, which
	 * lies behind the first thread in one piece of memory. */
	SHARED_AT = 16,
	SHARED_DISTANCE_MAX = 512,
	/* So much of it is looked at. */
	SHARED_SIZE = 1024,
	WORDS = SHARED_SIZE / sizeof(int32_t),
	PROBES = 400, /* a loop is compiled after some 60 turns */
	TEXTS = 100,
};

/* ---- where LuaJIT notes what runs: the number of a trace, or a small negative number; and
 * the size of its table of texts, less one, with how many there are behind it ---- */

static struct {
	bool tried;
	int word;  /* -1: not found, or nothing is ever compiled */
	int texts; /* -1: not found */
	const int32_t *shared;
	int32_t first[WORDS], last[WORDS];
	int turns;
} probe = {.word = -1, .texts = -1};

static const int32_t *shared_of(lua_State *L)
{
	const char *shared;

	memcpy(&shared, (const char *)L + SHARED_AT, sizeof(shared));
	if (shared <= (const char *)L || shared > (const char *)L + SHARED_DISTANCE_MAX)
		return NULL;
	return (const int32_t *)shared;
}

/* Called by a loop that is interpreted at first and then compiled. */
static void take_probe(void)
{
	memcpy(probe.turns++ == 0 ? probe.first : probe.last, probe.shared, SHARED_SIZE);
}

/* In a state whose collector stands still. */
static void find_texts(lua_State *L)
{
	memcpy(probe.first, probe.shared, SHARED_SIZE);
	for (int i = 0; i < TEXTS; i++)
		lua_pushfstring(L, "a text of the probe: %d", i);
	memcpy(probe.last, probe.shared, SHARED_SIZE);
	for (int i = 1; i < (int)WORDS; i++) {
		uint32_t mask = (uint32_t)probe.first[i - 1], before = (uint32_t)probe.first[i];
		uint32_t now = (uint32_t)probe.last[i];

		if (mask < 1 || mask > INT32_MAX || (mask & (mask + 1)) != 0 ||
		    (uint32_t)probe.last[i - 1] != mask || now > mask + 1)
			continue;
		if (before > 0 && now - before == TEXTS)
			probe.texts = probe.texts == -1 ? i - 1 : -2;
	}
}

static void find_words(void)
{
	static const char source[] = "local fn = require('ffi').cast('void (*)(void)', (...))\n"
				     "for _ = 1, 400 do fn() end\n";
	lua_State *L = luaL_newstate();

	probe.tried = true;
	if (!L)
		return;
	luaL_openlibs(L);
	probe.shared = shared_of(L);
	if (probe.shared && luaL_loadbuffer(L, source, sizeof(source) - 1, "=probe") == 0) {
		lua_pushlightuserdata(L, (void *)(uintptr_t)take_probe);
		if (lua_pcall(L, 1, 0, 0) != 0)
			probe.turns = 0;
	}
	for (int i = 0; i < (int)WORDS && probe.turns == PROBES; i++) {
		if (probe.first[i] >= 0 || probe.first[i] < -16 || probe.last[i] < 1 || probe.last[i] > 100)
			continue;
		/* Two would be none. */
		probe.word = probe.word == -1 ? i : -2;
	}
	if (probe.word < 0)
		probe.word = -1;
	lua_gc(L, LUA_GCSTOP, 0);
	if (probe.shared && lua_checkstack(L, TEXTS))
		find_texts(L);
	lua_close(L);
}

/* ---- leaving machine code ------------------------------------------------------------ */

/* Of one state, in its registry. */
struct stop {
	lua_State *L;
	struct heap *heap;
	bool pending;
	lua_Hook hook;
	int mask, count, pause, step;
};

static const char KEY[] = "flowd.memory";

static struct stop *stop_of(lua_State *L)
{
	struct stop *stop;

	lua_getfield(L, LUA_REGISTRYINDEX, KEY);
	stop = lua_touserdata(L, -1);
	lua_pop(L, 1);
	return stop;
}

/* The first instruction behind machine code. */
static void on_instruction(lua_State *L, lua_Debug *ar)
{
	struct stop *stop = stop_of(L);
	bool over = heap_stopped(stop->heap);

	(void)ar;
	stop->pending = false;
	lua_sethook(L, stop->hook, stop->mask, stop->count);
	lua_gc(L, LUA_GCSETPAUSE, stop->pause);
	lua_gc(L, LUA_GCSETSTEPMUL, stop->step);
	/* It may be somebody else's turn by now. */
	if (over)
		luaL_error(L, "not enough memory");
}

/* From the allocator: machine code is to end. Only fields of the state are set. */
static void request_stop(void *data, bool at_once)
{
	struct stop *stop = data;
	lua_State *L = stop->L;

	if (at_once)
		watchdog_replace(STATE_REASON_MEMORY);
	if (stop->pending)
		return;
	stop->pending = true;
	stop->hook = lua_gethook(L);
	stop->mask = lua_gethookmask(L);
	stop->count = lua_gethookcount(L);
	stop->pause = lua_gc(L, LUA_GCSETPAUSE, 0);
	stop->step = lua_gc(L, LUA_GCSETSTEPMUL, 1000000);
	lua_gc(L, LUA_GCRESTART, 0);
	lua_sethook(L, on_instruction, LUA_MASKCOUNT, 1);
}

void lua_memory_install(lua_State *L, struct heap *h)
{
	struct stop *stop;
	const int32_t *shared = shared_of(L);

	if (!probe.tried)
		find_words();
	if (shared && probe.texts >= 0)
		heap_set_texts(h, (const volatile uint32_t *)(shared + probe.texts));
	if (!shared || probe.word < 0)
		return;
	stop = lua_newuserdata(L, sizeof(*stop));
	memset(stop, 0, sizeof(*stop));
	stop->L = L;
	stop->heap = h;
	lua_setfield(L, LUA_REGISTRYINDEX, KEY);
	heap_set_machine(h, shared + probe.word, request_stop, stop);
}
