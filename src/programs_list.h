/* SPDX-License-Identifier: Apache-2.0 */
/* programs_list.h - the eBPF objects inside the binary, as the build lists them (Makefile). */
#ifndef PROGRAMS_LIST_H
#define PROGRAMS_LIST_H

#include <stddef.h>

struct programs_object {
	const char *name; /* NULL behind the last one */
	const void *(*elf)(size_t *size);
};

extern const struct programs_object programs_list[];

#endif
