// SPDX-License-Identifier: Apache-2.0
#include "lua_policy.h"

#include <lauxlib.h>
#include <luajit.h>
#include <stdbool.h>
#include <string.h>

#include "clock.h"
#include "heap.h"
#include "lua_call.h"
#include "lua_copy.h"
#include "lua_loop.h"
#include "lua_state.h"

#define POLICY "flowd.policy"

/* In a policy state's registry: struct policy of the state; the function that answers calls; the one that
 * runs batches. In the main state's: the function that answers calls of policy states. */
#define SELF	   "flowd.policy.self"
#define CALL	   "flowd.policy.call"
#define RUN	   "flowd.policy.run"
#define HOST_CALLS "flowd.policy.host"

struct policy {
	lua_State *L; /* owned; NULL: closed */
	struct heap *heap;
	lua_State *main; /* the main state's main thread */
	lua_State *host; /* the main state's thread that is calling; NULL: none, a timer runs */
	int run;	 /* reference of RUN's function */
	int depth;	 /* calls under way */
	bool retired;	 /* nobody calls it any more */
	int cycles;	 /* of its collector since then */
};

enum {
	/* One may have been under way, the second one finalizes, the third one frees what it finalized. */
	CYCLES = 3,
	/* Given back at a time. */
	PIECES = 4,
};

/* One call: arguments in, results or message out. */
struct request {
	struct copy_buffer arguments, results;
	const char *function; /* key in the registry of what is called */
	bool failed;
};

/* Runs protected in the state that is called. */
static int answer(lua_State *L)
{
	struct request *request = lua_touserdata(L, 1);
	int count;

	lua_settop(L, 0);
	lua_getfield(L, LUA_REGISTRYINDEX, request->function);
	count = lua_copy_write(L, &request->arguments);
	if (lua_call_traced(L, count, LUA_MULTRET) == 0) {
		if (lua_copy_read(L, 1, lua_gettop(L), "result", &request->results) == 0)
			return 0;
		lua_settop(L, 0);
		lua_pushstring(L, request->results.error);
	}
	request->results.length = 0;
	request->failed = true;
	if (lua_type(L, -1) != LUA_TSTRING)
		lua_pushliteral(L, "error object is no string");
	if (lua_copy_read(L, lua_gettop(L), lua_gettop(L), "error", &request->results) != 0)
		request->results.length = 0;
	return 0;
}

/* Runs protected in the state that called: results onto its stack. */
static int receive(lua_State *L)
{
	const struct request *request = lua_touserdata(L, 1);

	lua_settop(L, 0);
	return lua_copy_write(L, &request->results);
}

/* From L, whose stack holds the arguments from index `first` on, to another state. Returns the number of
 * results, which are on top of L's stack; raises what went wrong. */
static int cross(lua_State *L, int first, lua_State *other, const char *function)
{
	struct request request = {.function = function};
	int top = lua_gettop(L), other_top = lua_gettop(other);
	int status;

	if (lua_copy_read(L, first, top, "argument", &request.arguments) != 0) {
		lua_pushstring(L, request.arguments.error);
		lua_copy_free(&request.arguments);
		return lua_error(L);
	}
	status = lua_cpcall(other, answer, &request);
	lua_copy_free(&request.arguments);
	lua_settop(other, other_top);
	if (status == 0 && (request.results.length > 0 || !request.failed)) {
		lua_pushcfunction(L, receive);
		lua_pushlightuserdata(L, &request);
		status = lua_pcall(L, 1, LUA_MULTRET, 0);
	} else {
		/* Not even the message could be made. */
		request.failed = true;
		lua_pushliteral(L, "not enough memory");
	}
	lua_copy_free(&request.results);
	if (status != 0 || request.failed)
		return lua_error(L);
	return lua_gettop(L) - top;
}

/* ---- the policy state's side: _flowd.policy ------------------------------------------ */

static struct policy *self_of(lua_State *L)
{
	struct policy *p;

	lua_getfield(L, LUA_REGISTRYINDEX, SELF);
	p = lua_touserdata(L, -1);
	lua_pop(L, 1);
	return p;
}

/* host(name, ...): what policy_state.host.NAME(...) gives in the main state. */
static int policy_host(lua_State *L)
{
	const struct policy *p = self_of(L);

	luaL_checkstring(L, 1);
	return cross(L, 1, p->host ? p->host : p->main, HOST_CALLS);
}

/* serve(call, run): the functions that answer, and that run batches. */
static int policy_serve(lua_State *L)
{
	struct policy *p = self_of(L);

	luaL_checktype(L, 1, LUA_TFUNCTION);
	luaL_checktype(L, 2, LUA_TFUNCTION);
	lua_settop(L, 2);
	p->run = luaL_ref(L, LUA_REGISTRYINDEX);
	lua_setfield(L, LUA_REGISTRYINDEX, CALL);
	return 0;
}

/* Runs protected in the new state, with its struct policy. */
static int furnish(lua_State *L)
{
	struct policy *p = lua_touserdata(L, 1);

	lua_pushlightuserdata(L, p);
	lua_setfield(L, LUA_REGISTRYINDEX, SELF);
	lua_getglobal(L, "_flowd");
	lua_newtable(L);
	lua_pushcfunction(L, policy_host);
	lua_setfield(L, -2, "host");
	lua_pushcfunction(L, policy_serve);
	lua_setfield(L, -2, "serve");
	lua_pushlightuserdata(L, p->heap);
	lua_setfield(L, -2, "heap");
	lua_setfield(L, -2, "policy");
	lua_getglobal(L, "require");
	lua_pushliteral(L, "flowd.policy_inside");
	lua_call(L, 1, 0);
	return 0;
}

/* ---- the main state's side: flowd.policy_core ---------------------------------------- */

static void close_state(struct policy *p)
{
	if (!p->L)
		return;
	heap_abandon(p->heap);
	lua_close(p->L);
	p->L = NULL;
}

static void policy_close(struct policy *p)
{
	close_state(p);
	heap_free(p->heap);
	p->heap = NULL;
}

/* Modules of the framework go. LuaJIT's stay: it needs what they hold (the table of finalizers). */
static void forget_modules(lua_State *L)
{
	lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
	for (lua_pushnil(L); lua_next(L, -2) != 0;) {
		lua_pop(L, 1);
		if (lua_type(L, -1) != LUA_TSTRING || strncmp(lua_tostring(L, -1), "flowd.", 6) != 0)
			continue;
		lua_pushvalue(L, -1);
		lua_pushnil(L);
		lua_rawset(L, -4);
	}
	lua_pop(L, 1);
}

/* Runs protected in the state: what is left is what finalizers need. */
static int drop_all(lua_State *L)
{
	luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_FLUSH);
	luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
	lua_loop_close_all(L);
	for (int i = (int)lua_objlen(L, LUA_REGISTRYINDEX); i > 0; i--) {
		lua_pushnil(L);
		lua_rawseti(L, LUA_REGISTRYINDEX, i);
	}
	lua_pushnil(L);
	lua_setfield(L, LUA_REGISTRYINDEX, CALL);
	forget_modules(L);
	lua_pushnil(L);
	lua_setglobal(L, "_flowd");
	return 0;
}

/* Runs protected in the state: a little of its collector's work. */
static int collect(lua_State *L)
{
	struct policy *p = lua_touserdata(L, 1);

	if (lua_gc(L, LUA_GCSTEP, 0))
		p->cycles++;
	return 0;
}

static struct policy *check_policy(lua_State *L)
{
	struct policy *p = luaL_checkudata(L, 1, POLICY);

	luaL_argcheck(L, p->L && !p->retired, 1, "this policy state is closed");
	return p;
}

/* new(limit, reserve) -> policy state: octets, as heap_new(). */
static int core_new(lua_State *L)
{
	lua_Number limit = luaL_checknumber(L, 1), reserve = luaL_checknumber(L, 2);
	struct policy *p = lua_newuserdata(L, sizeof(*p));

	memset(p, 0, sizeof(*p));
	luaL_getmetatable(L, POLICY);
	lua_setmetatable(L, -2);
	p->run = LUA_NOREF;
	lua_getfield(L, LUA_REGISTRYINDEX, "flowd.main_thread");
	p->main = lua_tothread(L, -1);
	lua_pop(L, 1);
	p->heap = heap_new((uint64_t)limit, (uint64_t)reserve);
	if (p->heap)
		p->L = lua_state_new_on(p->heap);
	if (!p->L) {
		heap_free(p->heap);
		p->heap = NULL;
		return luaL_error(L, "policy: not enough memory for a Lua state");
	}
	if (lua_cpcall(p->L, furnish, p) != 0) {
		lua_pushfstring(L, "policy: %s", lua_tostring(p->L, -1));
		policy_close(p);
		return lua_error(L);
	}
	return 1;
}

/* (policy, name, ...); raises. */
static int core_cross(lua_State *L)
{
	const struct policy *p = lua_touserdata(L, 1);

	return cross(L, 2, p->L, CALL);
}

/* policy:call(name, ...) -> what the function of that name gave; raises what it raised. */
static int core_call(lua_State *L)
{
	struct policy *p = check_policy(L);
	lua_State *host = p->host;
	int top = lua_gettop(L), status;

	luaL_checkstring(L, 2);
	p->host = L;
	p->depth++;
	/* cross() raises: the count must be right again by then. */
	lua_pushcfunction(L, core_cross);
	lua_insert(L, 2);
	lua_pushvalue(L, 1);
	lua_insert(L, 3);
	status = lua_pcall(L, top, LUA_MULTRET, 0);
	p->depth--;
	p->host = host;
	if (status != 0)
		return lua_error(L);
	return lua_gettop(L) - 1;
}

/* policy:run(address): a batch, struct flow_batch *, as a number. Errors are logged. */
static int core_run(lua_State *L)
{
	struct policy *p = check_policy(L);
	lua_Number batch = luaL_checknumber(L, 2);
	lua_State *host = p->host;

	p->host = L;
	p->depth++;
	lua_rawgeti(p->L, LUA_REGISTRYINDEX, p->run);
	lua_pushnumber(p->L, batch);
	lua_call_logged(p->L, 1, "rules");
	p->depth--;
	p->host = host;
	return 0;
}

/* policy:close() -> its memory is given back. */
static int core_close(lua_State *L)
{
	struct policy *p = luaL_checkudata(L, 1, POLICY);

	if (p->depth > 0)
		return luaL_error(L, "policy: cannot be closed from within");
	policy_close(p);
	return 0;
}

/* policy:retire(): nothing of it runs any more; close_some() is to be called until it is closed. */
static int core_retire(lua_State *L)
{
	struct policy *p = check_policy(L);

	if (p->depth > 0)
		return luaL_error(L, "policy: cannot be closed from within");
	p->retired = true;
	heap_set_owner(p->heap, NULL);
	heap_set_refused(p->heap, NULL);
	if (lua_cpcall(p->L, drop_all, NULL) != 0)
		close_state(p);
	return 0;
}

/* policy:close_some(ns) -> is it closed? Works for about so long. */
static int core_close_some(lua_State *L)
{
	struct policy *p = luaL_checkudata(L, 1, POLICY);
	uint64_t deadline = clock_monotonic_ns() + (uint64_t)luaL_checknumber(L, 2);

	luaL_argcheck(L, p->retired, 1, "this policy state is in use");
	while (p->L && clock_monotonic_ns() < deadline) {
		/* An error of a finalizer: the others' turn comes when all are ended. */
		if (p->cycles == CYCLES || lua_cpcall(p->L, collect, p) != 0)
			close_state(p);
	}
	while (p->heap && clock_monotonic_ns() < deadline) {
		if (heap_free_part(p->heap, PIECES))
			p->heap = NULL;
	}
	lua_pushboolean(L, !p->heap);
	return 1;
}

/* policy:heap() -> struct heap *, as light userdata. */
static int core_heap(lua_State *L)
{
	lua_pushlightuserdata(L, check_policy(L)->heap);
	return 1;
}

/* host(function): answers calls of policy states, function(name, ...). */
static int core_host(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TFUNCTION);
	lua_settop(L, 1);
	lua_setfield(L, LUA_REGISTRYINDEX, HOST_CALLS);
	return 0;
}

static int core_gc(lua_State *L)
{
	policy_close(lua_touserdata(L, 1));
	return 0;
}

int lua_policy_open(lua_State *L)
{
	luaL_newmetatable(L, POLICY);
	lua_pushcfunction(L, core_gc);
	lua_setfield(L, -2, "__gc");
	lua_newtable(L);
	lua_pushcfunction(L, core_call);
	lua_setfield(L, -2, "call");
	lua_pushcfunction(L, core_run);
	lua_setfield(L, -2, "run");
	lua_pushcfunction(L, core_close);
	lua_setfield(L, -2, "close");
	lua_pushcfunction(L, core_retire);
	lua_setfield(L, -2, "retire");
	lua_pushcfunction(L, core_close_some);
	lua_setfield(L, -2, "close_some");
	lua_pushcfunction(L, core_heap);
	lua_setfield(L, -2, "heap");
	lua_setfield(L, -2, "__index");
	lua_pop(L, 1);

	lua_newtable(L);
	lua_pushcfunction(L, core_new);
	lua_setfield(L, -2, "new");
	lua_pushcfunction(L, core_host);
	lua_setfield(L, -2, "host");
	return 1;
}
