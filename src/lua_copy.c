// SPDX-License-Identifier: Apache-2.0
#include "lua_copy.h"

#include <lauxlib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	LUA_TYPE_CDATA = 10, /* LuaJIT's, in no public header */
	/* Octets that say what follows. */
	TAG_NIL = 'n',
	TAG_FALSE = 'f',
	TAG_TRUE = 't',
	TAG_NUMBER = 'd',
	TAG_STRING = 's',
	TAG_INTEGER = 'i', /* as text, with its suffix: Lua source */
	TAG_TABLE = '{',   /* then keys and values, then TAG_END */
	TAG_END = '}',
};

struct reader {
	struct copy_buffer *out;
	const void *tables[COPY_DEPTH_MAX]; /* those that hold the value at hand */
	int depth;
	char path[160];
};

void lua_copy_free(struct copy_buffer *b)
{
	free(b->data);
	memset(b, 0, sizeof(*b));
}

static int append(struct copy_buffer *b, const void *data, size_t length)
{
	if (b->size - b->length < length) {
		size_t size = b->size ? b->size : 1024;
		unsigned char *grown;

		while (size - b->length < length)
			size *= 2;
		grown = realloc(b->data, size);
		if (!grown) {
			snprintf(b->error, sizeof(b->error), "out of memory");
			return -1;
		}
		b->data = grown;
		b->size = size;
	}
	memcpy(b->data + b->length, data, length);
	b->length += length;
	return 0;
}

static int append_tag(struct copy_buffer *b, char tag)
{
	return append(b, &tag, 1);
}

static int append_text(struct copy_buffer *b, char tag, const char *text, size_t length)
{
	uint64_t octets = length;

	if (append_tag(b, tag) != 0 || append(b, &octets, sizeof(octets)) != 0)
		return -1;
	return append(b, text, length);
}

static int fail(struct reader *r, const char *message)
{
	snprintf(r->out->error, sizeof(r->out->error), "%.120s: %.130s", r->path, message);
	return -1;
}

static int fail_kind(lua_State *L, struct reader *r, int index, const char *what)
{
	char message[128];

	snprintf(message, sizeof(message), "expected %s; got a %s", what,
		 lua_typename(L, lua_type(L, index)));
	return fail(r, message);
}

static const char plain[] = "nil, a boolean, number, string, 64-bit integer or a table of these";

/* int64_t and uint64_t print as Lua source; no other cdata does. */
static int read_cdata(lua_State *L, struct reader *r, int index)
{
	const char *text;
	size_t length;
	int status;

	if (!luaL_callmeta(L, index, "__tostring"))
		return fail_kind(L, r, index, plain);
	text = lua_tolstring(L, -1, &length);
	if (!text || length < 3 || strcmp(text + length - 2, "LL") != 0 ||
	    strspn(text, "-0123456789") < length - 3)
		status = fail_kind(L, r, index, plain);
	else
		status = append_text(r->out, TAG_INTEGER, text, length);
	lua_pop(L, 1);
	return status;
}

static int read_value(lua_State *L, struct reader *r, int index);

/* Write the key on top of the stack behind the path. Returns the path's length before. */
static size_t extend_path(lua_State *L, struct reader *r, int index)
{
	size_t length = strlen(r->path);

	if (lua_type(L, index) == LUA_TSTRING)
		snprintf(r->path + length, sizeof(r->path) - length, ".%s", lua_tostring(L, index));
	else if (lua_type(L, index) == LUA_TNUMBER)
		snprintf(r->path + length, sizeof(r->path) - length, "[%.14g]", lua_tonumber(L, index));
	else
		snprintf(r->path + length, sizeof(r->path) - length, "[%s]",
			 lua_typename(L, lua_type(L, index)));
	return length;
}

static int read_table(lua_State *L, struct reader *r, int index)
{
	const void *table = lua_topointer(L, index);
	int status = 0;

	for (int i = 0; i < r->depth; i++) {
		if (r->tables[i] == table)
			return fail(r, "this table holds itself");
	}
	if (r->depth == COPY_DEPTH_MAX)
		return fail(r, "tables in tables, too deep");
	if (lua_getmetatable(L, index)) {
		lua_pop(L, 1);
		return fail(r, "expected a plain table; this one has a metatable");
	}
	r->tables[r->depth++] = table;
	luaL_checkstack(L, 4, "copy");
	if (append_tag(r->out, TAG_TABLE) != 0)
		return -1;
	lua_pushnil(L);
	while (status == 0 && lua_next(L, index)) {
		int top = lua_gettop(L);
		size_t length = extend_path(L, r, top - 1);

		status = read_value(L, r, top - 1);
		if (status == 0)
			status = read_value(L, r, top);
		if (status == 0)
			r->path[length] = '\0';
		lua_settop(L, top - 1);
	}
	if (status != 0)
		return -1;
	r->depth--;
	return append_tag(r->out, TAG_END);
}

static int read_value(lua_State *L, struct reader *r, int index)
{
	lua_Number number;
	const char *text;
	size_t length;

	switch (lua_type(L, index)) {
	case LUA_TNIL:
		return append_tag(r->out, TAG_NIL);
	case LUA_TBOOLEAN:
		return append_tag(r->out, lua_toboolean(L, index) ? TAG_TRUE : TAG_FALSE);
	case LUA_TNUMBER:
		number = lua_tonumber(L, index);
		return append_tag(r->out, TAG_NUMBER) || append(r->out, &number, sizeof(number)) ? -1 : 0;
	case LUA_TSTRING:
		text = lua_tolstring(L, index, &length);
		return append_text(r->out, TAG_STRING, text, length);
	case LUA_TTABLE:
		return read_table(L, r, index);
	case LUA_TYPE_CDATA:
		return read_cdata(L, r, index);
	default:
		return fail_kind(L, r, index, plain);
	}
}

int lua_copy_read(lua_State *L, int first, int last, const char *what, struct copy_buffer *b)
{
	struct reader r = {.out = b};

	for (int i = first; i <= last; i++) {
		snprintf(r.path, sizeof(r.path), "%s %d", what, i - first + 1);
		if (read_value(L, &r, i) != 0)
			return -1;
	}
	return 0;
}

/* ---- the other way ------------------------------------------------------------------ */

static void take_octets(const struct copy_buffer *b, size_t *at, void *out, size_t length)
{
	memcpy(out, b->data + *at, length);
	*at += length;
}

static void write_text(lua_State *L, const struct copy_buffer *b, size_t *at, bool integer)
{
	uint64_t length;
	const char *text;
	char chunk[40];

	take_octets(b, at, &length, sizeof(length));
	text = (const char *)b->data + *at;
	*at += length;
	if (!integer) {
		lua_pushlstring(L, text, length);
		return;
	}
	snprintf(chunk, sizeof(chunk), "return %.*s", (int)length, text);
	if (luaL_loadstring(L, chunk) != 0)
		lua_error(L);
	lua_call(L, 0, 1);
}

/* Push the value at *at; false: it was the end of a table. */
static bool write_value(lua_State *L, const struct copy_buffer *b, size_t *at)
{
	char tag = (char)b->data[(*at)++];
	lua_Number number;

	luaL_checkstack(L, 4, "copy");
	switch (tag) {
	case TAG_END:
		return false;
	case TAG_NIL:
		lua_pushnil(L);
		return true;
	case TAG_FALSE:
	case TAG_TRUE:
		lua_pushboolean(L, tag == TAG_TRUE);
		return true;
	case TAG_NUMBER:
		take_octets(b, at, &number, sizeof(number));
		lua_pushnumber(L, number);
		return true;
	case TAG_STRING:
	case TAG_INTEGER:
		write_text(L, b, at, tag == TAG_INTEGER);
		return true;
	default:
		lua_newtable(L);
		while (write_value(L, b, at)) {
			write_value(L, b, at);
			lua_rawset(L, -3);
		}
		return true;
	}
}

int lua_copy_write(lua_State *L, const struct copy_buffer *b)
{
	size_t at = 0;
	int count = 0;

	while (at < b->length) {
		write_value(L, b, &at);
		count++;
	}
	return count;
}
