/* SPDX-License-Identifier: Apache-2.0 */
#include "lua_json.h"

#include <jansson.h>
#include <lauxlib.h>
#include <stdbool.h>

#define DOCUMENT "flowd.json_parser.document"

enum {
	DEPTH_MAX = 64,		   /* arrays and objects inside each other */
	SIZE_MAX_OCTETS = 1 << 24, /* of one text */
};

/* A Lua error (out of memory) may end the conversion anywhere: the collector frees it then. */
static json_t **new_document(lua_State *L)
{
	json_t **document = lua_newuserdata(L, sizeof(json_t *));

	*document = NULL;
	luaL_getmetatable(L, DOCUMENT);
	lua_setmetatable(L, -2);
	return document;
}

static int document_gc(lua_State *L)
{
	json_t **document = luaL_checkudata(L, 1, DOCUMENT);

	json_decref(*document);
	*document = NULL;
	return 0;
}

/* Leaves the value on the stack; false when it is too deep (nothing is left then). */
static bool push_value(lua_State *L, json_t *value, int depth)
{
	const char *key;
	json_t *item;
	size_t i;

	if (depth > DEPTH_MAX)
		return false;
	luaL_checkstack(L, 4, "JSON value");
	switch (json_typeof(value)) {
	case JSON_OBJECT:
		lua_createtable(L, 0, (int)json_object_size(value));
		json_object_foreach(value, key, item)
		{
			/* The parser refuses NUL in keys. */
			lua_pushstring(L, key);
			if (!push_value(L, item, depth + 1)) {
				lua_pop(L, 2);
				return false;
			}
			lua_rawset(L, -3);
		}
		return true;
	case JSON_ARRAY:
		lua_createtable(L, (int)json_array_size(value), 0);
		json_array_foreach(value, i, item)
		{
			if (!push_value(L, item, depth + 1)) {
				lua_pop(L, 1);
				return false;
			}
			lua_rawseti(L, -2, (int)i + 1);
		}
		return true;
	case JSON_STRING:
		lua_pushlstring(L, json_string_value(value), json_string_length(value));
		return true;
	case JSON_INTEGER:
		lua_pushnumber(L, (lua_Number)json_integer_value(value));
		return true;
	case JSON_REAL:
		lua_pushnumber(L, json_real_value(value));
		return true;
	case JSON_TRUE:
	case JSON_FALSE:
		lua_pushboolean(L, json_is_true(value));
		return true;
	default:
		lua_pushlightuserdata(L, NULL);
		return true;
	}
}

static int refuse(lua_State *L, const char *message, int line, int column)
{
	lua_pushnil(L);
	lua_pushstring(L, message);
	lua_pushinteger(L, line);
	lua_pushinteger(L, column);
	return 4;
}

/*
 * decode(text) -> value, or nil, message, line, column.
 * Objects and arrays are tables, null is json_parser.null; integers beyond 2^53 lose their last
 * digits. Refused: a name that occurs twice in an object, more than 64 levels, more than 16 MiB,
 * anything after the value.
 */
static int decode(lua_State *L)
{
	size_t length;
	const char *text = luaL_checklstring(L, 1, &length);
	json_t **document = new_document(L);
	json_error_t error;

	if (length > SIZE_MAX_OCTETS)
		return refuse(L, "larger than 16 MiB", 1, 1);
	*document = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
	if (!*document)
		return refuse(L, error.text, error.line > 0 ? error.line : 1,
			      error.column > 0 ? error.column : 1);
	if (!push_value(L, *document, 1))
		return refuse(L, "more than 64 levels of arrays and objects", 1, 1);
	json_decref(*document);
	*document = NULL;
	return 1;
}

static const luaL_Reg functions[] = {
	{"decode", decode},
	{NULL, NULL},
};

int lua_json_open(lua_State *L)
{
	luaL_newmetatable(L, DOCUMENT);
	lua_pushcfunction(L, document_gc);
	lua_setfield(L, -2, "__gc");
	lua_pop(L, 1);

	lua_newtable(L);
	luaL_register(L, NULL, functions);
	lua_pushlightuserdata(L, NULL);
	lua_setfield(L, -2, "null");
	return 1;
}
