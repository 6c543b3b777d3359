/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marker_tables.h - the two large maps of the marking programs, as the kernel takes them: elements, which a
 * program asks for by number, or "flat", one element each, which it reaches by address (bpf/flows.h).
 */
#ifndef MARKER_TABLES_H
#define MARKER_TABLES_H

#include <stdbool.h>
#include <stdint.h>

struct bpf_map;

/* Is a table of this capacity one element? `known`: the kernel tells of its structs, and lets programs look
 * into them (Linux 6.2). Such a kernel takes elements of any size (6.0). */
bool marker_tables_flat(uint32_t capacity, bool known);

/*
 * Give the maps of an object that is not loaded their sizes, for `count` CPUs and a table of `capacity` (a
 * power of two) flows; and have the programs that this thread loads next find them there, until
 * marker_tables_prepared(). The maps are borrowed until then. 0 or -errno.
 */
int marker_tables_prepare(struct bpf_map *cpus, struct bpf_map *flows, uint32_t count, uint32_t capacity,
			  bool known);
void marker_tables_prepared(void);

#endif
