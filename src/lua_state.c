/* SPDX-License-Identifier: Apache-2.0 */
#include "lua_state.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

#include "embedded.h"
#include "flowd_api.h"
#include "lua_bindings.h"
#include "lua_call.h"
#include "lua_memory.h"
#include "lua_next.h"
#include "lua_pcall.h"

/* A package loader: finds the module among the embedded files. */
static int embedded_loader(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1);

	for (const struct embedded_file *f = embedded_files; f->module; f++) {
		if (strcmp(f->module, name) != 0)
			continue;
		if (luaL_loadbuffer(L, f->data, f->size, f->chunkname) != 0)
			return lua_error(L);
		return 1;
	}
	lua_pushfstring(L, "\n\tno embedded module '%s'", name);
	return 1;
}

/* embedded() -> array of module names. */
static int embedded_list(lua_State *L)
{
	int n = 0;

	lua_newtable(L);
	for (const struct embedded_file *f = embedded_files; f->module; f++) {
		lua_pushstring(L, f->module);
		lua_rawseti(L, -2, ++n);
	}
	return 1;
}

static void set_package_path(lua_State *L, const char *lua_path)
{
	lua_getglobal(L, "package");
	if (lua_path)
		lua_pushfstring(L, "%s/?.lua;%s/?/init.lua", lua_path, lua_path);
	else
		lua_pushliteral(L, "");
	lua_setfield(L, -2, "path");
	lua_pushliteral(L, "");
	lua_setfield(L, -2, "cpath");

	/* Loaders: preload, files of lua_path, embedded, C libraries (the tests' own:
	 * cpath is empty otherwise). */
	lua_getfield(L, -1, "loaders");
	lua_rawgeti(L, -1, 3);
	lua_rawseti(L, -2, 4);
	lua_pushcfunction(L, embedded_loader);
	lua_rawseti(L, -2, 3);
	lua_pop(L, 2);
}

static void preload(lua_State *L, const char *name, lua_CFunction open)
{
	lua_getglobal(L, "package");
	lua_getfield(L, -1, "preload");
	lua_pushcfunction(L, open);
	lua_setfield(L, -2, name);
	lua_pop(L, 2);
}

/* Octets: more than there are. */
#define NO_LIMIT (UINT64_C(1) << 62)

/* Of the first state: all others find their modules where it does. */
static const char *module_path;

/* Runs protected: memory may be short. */
static int open_modules(lua_State *L)
{
	luaL_openlibs(L);
	lua_call_install(L);
	lua_next_install(L);
	lua_pcall_install(L);
	lua_memory_install(L, lua_state_heap(L));
	lua_pushthread(L);
	lua_setfield(L, LUA_REGISTRYINDEX, "flowd.main_thread");
	set_package_path(L, module_path);
	for (const struct lua_binding *b = lua_bindings; b->module; b++)
		preload(L, b->module, b->open);

	/* flowd.api casts this to struct flowd_api. */
	lua_newtable(L);
	lua_pushlightuserdata(L, (void *)&flowd_api);
	lua_setfield(L, -2, "api");
	lua_pushcfunction(L, embedded_list);
	lua_setfield(L, -2, "embedded");
	lua_pushliteral(L, FLOWD_VERSION);
	lua_setfield(L, -2, "version");
	lua_pushlightuserdata(L, lua_state_heap(L));
	lua_setfield(L, -2, "heap");
	lua_setglobal(L, "_flowd");
	return 0;
}

static lua_State *open_state(lua_State *L)
{
	if (L && lua_cpcall(L, open_modules, NULL) != 0) {
		lua_close(L);
		return NULL;
	}
	return L;
}

lua_State *lua_state_new(const char *lua_path)
{
	struct heap *h = heap_new(NO_LIMIT, 0);
	lua_State *L;

	module_path = lua_path;
	L = h ? lua_state_new_on(h) : NULL;
	if (!L)
		heap_free(h);
	return L;
}

void lua_state_close(lua_State *L)
{
	struct heap *h = lua_state_heap(L);

	heap_abandon(h);
	lua_close(L);
	heap_free(h);
}

lua_State *lua_state_new_on(struct heap *h)
{
	return open_state(lua_newstate(heap_allocate, h));
}

struct heap *lua_state_heap(lua_State *L)
{
	void *heap;

	lua_getallocf(L, &heap);
	return heap;
}
