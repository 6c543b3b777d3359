/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lua_copy.h - plain values from one Lua state to another, by way of octets.
 *
 * Plain is nil, boolean, number, string, 64-bit integer and tables of these, without metatables, at most
 * COPY_DEPTH_MAX deep. A table that is in two places is two tables afterwards; one that holds itself is
 * refused.
 */
#ifndef LUA_COPY_H
#define LUA_COPY_H

#include <lua.h>
#include <stddef.h>

enum { COPY_DEPTH_MAX = 64 };

/* Owned by whoever holds it; zeroed is empty. */
struct copy_buffer {
	unsigned char *data;
	size_t length, size;
	char error[256];
};

void lua_copy_free(struct copy_buffer *b);

/*
 * Append the values at first..last of the stack. `what` names them in messages ("argument").
 * Returns 0, or -1 with b->error: "argument 2.rules[1]: expected …; got a function".
 * May raise when L is out of memory: call it in L's protected code.
 */
int lua_copy_read(lua_State *L, int first, int last, const char *what, struct copy_buffer *b);

/* Push all values of the buffer. Returns how many. May raise when L is out of memory, as above. */
int lua_copy_write(lua_State *L, const struct copy_buffer *b);

#endif
