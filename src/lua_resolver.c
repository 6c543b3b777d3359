/* SPDX-License-Identifier: Apache-2.0 */
#include "lua_resolver.h"

#include <event2/dns.h>
#include <event2/event.h>
#include <event2/util.h>
#include <lauxlib.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "address.h"
#include "log.h"
#include "lua_call.h"
#include "lua_loop.h"

#define HANDLE "flowd.resolver.query"

/*
 * One question to evdns. It has a resolver of its own, which reads the two files when the
 * question is asked: what an operator changes there is in force at once, and while nothing
 * is asked there is no socket, no timer and no memory. (Names are asked for every few
 * minutes at most.)
 *
 * It lives until evdns has answered, also when nobody waits for that any more: evdns answers a
 * cancelled question too, later, and the resolver must be there until then and must not
 * be freed by that answer itself. So the answer is always handed on from the timer `deliver`,
 * which also keeps one from a hosts file from coming before resolve() has returned.
 */
struct lookup {
	struct evdns_base *dns;
	struct evdns_getaddrinfo_request *request; /* NULL: answered */
	struct event *deliver;
	struct evutil_addrinfo *addresses;
	struct query *query; /* NULL: closed */
	int error;	     /* EVUTIL_EAI_*, 0: addresses */
};

/* Lua's end of it. The registry holds the userdata (self) until it is closed. */
struct query {
	struct lookup *lookup; /* NULL: closed */
	lua_State *L;
	int self;
	int callback;
};

static void lookup_free(struct lookup *l)
{
	if (l->addresses)
		evutil_freeaddrinfo(l->addresses);
	if (l->deliver)
		event_free(l->deliver);
	if (l->dns)
		evdns_base_free(l->dns, 0);
	free(l);
}

static void on_answer(int error, struct evutil_addrinfo *addresses, void *arg)
{
	static const struct timeval now = {0, 0};
	struct lookup *l = arg;

	l->request = NULL;
	l->error = error;
	l->addresses = addresses;
	event_add(l->deliver, &now);
}

static void query_close(struct query *q)
{
	struct lookup *l = q->lookup;

	if (!l)
		return;
	q->lookup = NULL;
	l->query = NULL;
	if (l->request)
		evdns_getaddrinfo_cancel(l->request);
	luaL_unref(q->L, LUA_REGISTRYINDEX, q->callback);
	luaL_unref(q->L, LUA_REGISTRYINDEX, q->self);
}

/* Push the addresses as an array of text, each once, in the resolver's order. */
static void push_addresses(lua_State *L, const struct evutil_addrinfo *list)
{
	int n = 0;

	lua_newtable(L);
	lua_newtable(L); /* seen */
	for (; list; list = list->ai_next) {
		struct flow_address address;
		char text[ADDRESS_TEXT_SIZE];
		size_t length;

		if (list->ai_family == AF_INET) {
			const struct sockaddr_in *in = (const struct sockaddr_in *)list->ai_addr;

			memset(&address, 0, sizeof(address));
			memset(address.octet + 10, 0xff, 2);
			memcpy(address.octet + 12, &in->sin_addr, 4);
		} else if (list->ai_family == AF_INET6) {
			const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)list->ai_addr;

			memcpy(address.octet, &in6->sin6_addr, 16);
		} else {
			continue;
		}
		length = address_format(&address, text);
		lua_pushlstring(L, text, length);
		lua_pushvalue(L, -1);
		lua_rawget(L, -3);
		if (lua_isnil(L, -1)) {
			lua_pushvalue(L, -2);
			lua_pushboolean(L, 1);
			lua_rawset(L, -5);
			lua_pop(L, 1);
			lua_rawseti(L, -3, ++n);
		} else {
			lua_pop(L, 2);
		}
	}
	lua_pop(L, 1);
}

static void on_deliver(evutil_socket_t fd, short what, void *arg)
{
	struct lookup *l = arg;
	struct query *q = l->query;
	lua_State *L;

	(void)fd;
	(void)what;
	if (!q) {
		lookup_free(l);
		return;
	}
	L = q->L;
	lua_rawgeti(L, LUA_REGISTRYINDEX, q->callback);
	if (l->error == 0) {
		push_addresses(L, l->addresses);
		lua_pushnil(L);
	} else {
		lua_pushnil(L);
		lua_pushstring(L, evutil_gai_strerror(l->error));
	}
	query_close(q);
	lookup_free(l);
	lua_call_logged(L, 2, "resolver");
}

static struct lookup *lookup_new(const char *resolv_conf, const char *hosts)
{
	struct lookup *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->dns = evdns_base_new(lua_loop_base(), 0);
	l->deliver = event_new(lua_loop_base(), -1, 0, on_deliver, l);
	if (!l->dns || !l->deliver) {
		lookup_free(l);
		return NULL;
	}
	/* A file that is missing leaves the defaults: the name server of this host, no names. */
	(void)evdns_base_resolv_conf_parse(l->dns, DNS_OPTIONS_ALL & ~DNS_OPTION_HOSTSFILE, resolv_conf);
	(void)evdns_base_load_hosts(l->dns, hosts);
	return l;
}

/*
 * resolve(name, callback(addresses | nil, error), resolv_conf, hosts) -> query.
 * addresses: array of text. The callback comes later, once, unless the query is closed.
 */
static int resolve(lua_State *L)
{
	static const struct evutil_addrinfo hints = {
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_DGRAM,
		.ai_protocol = IPPROTO_UDP,
	};
	const char *name = luaL_checkstring(L, 1);
	const char *resolv_conf = luaL_checkstring(L, 3);
	const char *hosts = luaL_checkstring(L, 4);
	struct query *q;

	luaL_checktype(L, 2, LUA_TFUNCTION);
	q = lua_newuserdata(L, sizeof(*q));
	memset(q, 0, sizeof(*q));
	luaL_getmetatable(L, HANDLE);
	lua_setmetatable(L, -2);
	/* A query made inside a coroutine outlives it. */
	lua_getfield(L, LUA_REGISTRYINDEX, "flowd.main_thread");
	q->L = lua_tothread(L, -1);
	lua_pop(L, 1);
	lua_pushvalue(L, 2);
	q->callback = luaL_ref(L, LUA_REGISTRYINDEX);
	lua_pushvalue(L, -1);
	q->self = luaL_ref(L, LUA_REGISTRYINDEX);

	q->lookup = lookup_new(resolv_conf, hosts);
	if (!q->lookup) {
		luaL_unref(L, LUA_REGISTRYINDEX, q->callback);
		luaL_unref(L, LUA_REGISTRYINDEX, q->self);
		return luaL_error(L, "resolver: out of memory");
	}
	q->lookup->query = q;
	q->lookup->request = evdns_getaddrinfo(q->lookup->dns, name, NULL, &hints, on_answer, q->lookup);
	return 1;
}

static int query_method_close(lua_State *L)
{
	query_close(luaL_checkudata(L, 1, HANDLE));
	return 0;
}

static const luaL_Reg functions[] = {
	{"resolve", resolve},
	{NULL, NULL},
};

static const luaL_Reg methods[] = {
	{"close", query_method_close},
	{NULL, NULL},
};

/* What evdns finds noteworthy; whoever asked is told in any case. */
static void log_evdns(int is_warning, const char *message)
{
	(void)is_warning;
	log_debug("resolver: %s", message);
}

int lua_resolver_open(lua_State *L)
{
	evdns_set_log_fn(log_evdns);
	luaL_newmetatable(L, HANDLE);
	lua_newtable(L);
	luaL_register(L, NULL, methods);
	lua_setfield(L, -2, "__index");
	lua_pushcfunction(L, query_method_close);
	lua_setfield(L, -2, "__gc");
	lua_pop(L, 1);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
