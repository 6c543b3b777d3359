/* SPDX-License-Identifier: Apache-2.0 */
/*
 * embedded.h - the Lua sources and data files compiled into the binary
 * (written by scripts/build/embed.lua).
 */
#ifndef EMBEDDED_H
#define EMBEDDED_H

#include <stddef.h>

struct embedded_file {
	const char *module;    /* Lua module name, "flowd.rules" */
	const char *chunkname; /* "@lua/flowd/rules.lua": what tracebacks show */
	const char *data;
	size_t size;
};

/* Ends with an entry whose module is NULL. */
extern const struct embedded_file embedded_files[];

/* Where the data of all of them lies. */
extern const unsigned char embedded_octets[];
extern const size_t embedded_size;

#endif
