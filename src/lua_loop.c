/* SPDX-License-Identifier: Apache-2.0 */
#include "lua_loop.h"

#include <event2/event.h>
#include <lauxlib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "lua_call.h"

#define HANDLE "flowd.loop.handle"

/*
 * A timer, descriptor or signal that Lua watches. The registry holds the userdata
 * while it is active (self), and its callback; close() drops both, so a closed
 * handle cannot call anything any more.
 */
struct handle {
	struct event *event;
	lua_State *L;
	int self;
	int callback;
	bool once;
};

static struct event_base *base;

struct event_base *lua_loop_base(void)
{
	struct event_config *config;

	if (base)
		return base;
	config = event_config_new();
	if (config) {
		event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_PRECISE_TIMER);
		base = event_base_new_with_config(config);
		event_config_free(config);
	}
	if (!base) {
		log_error("event loop: cannot be created");
		abort();
	}
	return base;
}

static void handle_close(struct handle *h)
{
	if (!h->event)
		return;
	event_free(h->event);
	h->event = NULL;
	luaL_unref(h->L, LUA_REGISTRYINDEX, h->callback);
	luaL_unref(h->L, LUA_REGISTRYINDEX, h->self);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
	struct handle *h = arg;
	lua_State *L = h->L;

	(void)fd;
	lua_rawgeti(L, LUA_REGISTRYINDEX, h->callback);
	if (h->once)
		handle_close(h);
	lua_pushboolean(L, (what & EV_READ) != 0);
	lua_pushboolean(L, (what & EV_WRITE) != 0);
	lua_call_logged(L, 2, "event loop");
}

static lua_State *main_thread(lua_State *L)
{
	lua_State *main;

	/* A handle made inside a coroutine outlives it. */
	lua_getfield(L, LUA_REGISTRYINDEX, "flowd.main_thread");
	main = lua_tothread(L, -1);
	lua_pop(L, 1);
	return main ? main : L;
}

/* Leaves the new handle on the stack. The callback is at stack index `callback`. */
static void watch(lua_State *L, int callback, int fd, short what, const struct timeval *timeout, bool once)
{
	struct handle *h;

	luaL_checktype(L, callback, LUA_TFUNCTION);
	h = lua_newuserdata(L, sizeof(*h));
	memset(h, 0, sizeof(*h));
	luaL_getmetatable(L, HANDLE);
	lua_setmetatable(L, -2);
	h->L = main_thread(L);
	h->once = once;
	h->event = event_new(lua_loop_base(), fd, what, on_event, h);
	if (!h->event || event_add(h->event, timeout) != 0) {
		if (h->event)
			event_free(h->event);
		h->event = NULL;
		luaL_error(L, "event loop: cannot watch descriptor or signal %d", fd);
	}
	lua_pushvalue(L, callback);
	h->callback = luaL_ref(L, LUA_REGISTRYINDEX);
	lua_pushvalue(L, -1);
	h->self = luaL_ref(L, LUA_REGISTRYINDEX);
}

void lua_loop_close_all(lua_State *L)
{
	/* Each that may still call is held by the registry. */
	for (int i = (int)lua_objlen(L, LUA_REGISTRYINDEX); i > 0; i--) {
		lua_rawgeti(L, LUA_REGISTRYINDEX, i);
		if (lua_isuserdata(L, -1) && lua_getmetatable(L, -1)) {
			luaL_getmetatable(L, HANDLE);
			if (lua_rawequal(L, -1, -2))
				handle_close(lua_touserdata(L, -3));
			lua_pop(L, 2);
		}
		lua_pop(L, 1);
	}
}

static struct timeval check_seconds(lua_State *L, int index)
{
	double seconds = luaL_checknumber(L, index);
	struct timeval tv;

	luaL_argcheck(L, seconds >= 0 && seconds < 1e9, index, "expected seconds, 0 or more");
	tv.tv_sec = (time_t)seconds;
	tv.tv_usec = (suseconds_t)((seconds - floor(seconds)) * 1e6);
	return tv;
}

/* loop.after(seconds, callback) -> handle: once. */
static int loop_after(lua_State *L)
{
	struct timeval tv = check_seconds(L, 1);

	watch(L, 2, -1, 0, &tv, true);
	return 1;
}

/* loop.every(seconds, callback) -> handle: until it is closed. */
static int loop_every(lua_State *L)
{
	struct timeval tv = check_seconds(L, 1);

	watch(L, 2, -1, EV_PERSIST, &tv, false);
	return 1;
}

/* loop.fd(fd, "r" | "w" | "rw", callback(readable, writable)) -> handle. Borrows fd. */
static int loop_fd(lua_State *L)
{
	int fd = (int)luaL_checkinteger(L, 1);
	const char *mode = luaL_checkstring(L, 2);
	short what = EV_PERSIST;

	what = (short)(what | (strchr(mode, 'r') ? EV_READ : 0) | (strchr(mode, 'w') ? EV_WRITE : 0));
	luaL_argcheck(L, what != EV_PERSIST, 2, "expected r, w or rw");
	watch(L, 3, fd, what, NULL, false);
	return 1;
}

/* loop.signal(number, callback) -> handle. */
static int loop_signal(lua_State *L)
{
	watch(L, 2, (int)luaL_checkinteger(L, 1), EV_SIGNAL | EV_PERSIST, NULL, false);
	return 1;
}

/* loop.run(): until loop.stop(), or until nothing is left to wait for. */
static int loop_run(lua_State *L)
{
	(void)L;
	event_base_dispatch(lua_loop_base());
	return 0;
}

/* loop.turn(): handle what is ready now, without waiting. */
static int loop_turn(lua_State *L)
{
	(void)L;
	/* Without EVLOOP_ONCE it would go on for as long as something is ready. */
	event_base_loop(lua_loop_base(), EVLOOP_ONCE | EVLOOP_NONBLOCK);
	return 0;
}

/* loop.stop(): loop.run() returns after the callbacks in hand. */
static int loop_stop(lua_State *L)
{
	(void)L;
	event_base_loopbreak(lua_loop_base());
	return 0;
}

static int handle_method_close(lua_State *L)
{
	handle_close(luaL_checkudata(L, 1, HANDLE));
	return 0;
}

static int handle_active(lua_State *L)
{
	const struct handle *h = luaL_checkudata(L, 1, HANDLE);

	lua_pushboolean(L, h->event != NULL);
	return 1;
}

static const luaL_Reg functions[] = {
	{"after", loop_after}, {"every", loop_every}, {"fd", loop_fd},	   {"signal", loop_signal},
	{"run", loop_run},     {"turn", loop_turn},   {"stop", loop_stop}, {NULL, NULL},
};

static const luaL_Reg methods[] = {
	{"close", handle_method_close},
	{"active", handle_active},
	{NULL, NULL},
};

int lua_loop_open(lua_State *L)
{
	luaL_newmetatable(L, HANDLE);
	lua_newtable(L);
	luaL_register(L, NULL, methods);
	lua_setfield(L, -2, "__index");
	lua_pushcfunction(L, handle_method_close);
	lua_setfield(L, -2, "__gc");
	lua_pop(L, 1);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
