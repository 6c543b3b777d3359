/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * marker_kernel.h - what the marking programs read of the kernel's own structs. A program has a
 * placeholder in each instruction that depends on the kernel; marker_kernel.c puts in what the running
 * kernel says of itself (BTF), before the kernel gets to see the program. libbpf could do as much
 * (CO-RE), but takes its time over the kernel's 150,000 types: a third of the daemon's start.
 *
 * Shared with bpf/kernel.h.
 */
#ifndef MARKER_KERNEL_H
#define MARKER_KERNEL_H

/* Placeholders: number of a function that is called, offset of a field, mask of a bit. */
enum {
	MARKER_KERNEL_CAST = 0x7F00, /* bpf_cast_to_kern_ctx(), of Linux 6.2 */
	MARKER_KERNEL_SOCKET,	     /* sk_buff.sk */
	MARKER_KERNEL_CLONED,	     /* sk_buff.cloned, a bit */
	MARKER_KERNEL_COOKIE,	     /* sock.__sk_common.skc_cookie */
	MARKER_KERNEL_END,
};

/* Others: constants of a load of programs. Those that are left as they are mean "no". */
enum {
	MARKER_KERNEL_UNKNOWN = 0x7F10, /* 0: those above are filled in */
	MARKER_KERNEL_CPUS_ELEMENTS,	/* 0: the map `cpus` is one element, and these are filled in: */
	MARKER_KERNEL_CPUS,		/*   its address */
	MARKER_KERNEL_CPU_MASK,		/*   how many CPUs it has room for, less 1 */
	MARKER_KERNEL_FLOWS_ELEMENTS,	/* 0: `flows` is, and these are: */
	MARKER_KERNEL_TAGS,		/*   the addresses of the tags, */
	MARKER_KERNEL_ENTRIES,		/*   of the entries, */
	MARKER_KERNEL_RESTS,		/*   and of what counts beside them */
	MARKER_KERNEL_ENTRY_MASK,	/*   how many of these, less 1 */
	MARKER_KERNEL_ENTRY_SHIFT,	/*   bits of a hash that are not the number of one, */
	MARKER_KERNEL_FACTOR,		/*   and the hash's factor */
};

#ifndef __bpf__

#include <stdbool.h>
#include <stdint.h>

#include "ffi_export.h"

struct bpf_map;

/* Where things are in a kernel. */
struct marker_kernel {
	int32_t cast;	    /* BTF id of the function */
	uint16_t offset[4]; /* of a field, by placeholder - MARKER_KERNEL_CAST */
	uint8_t cloned;	    /* mask */
};

/* Look into a file of BTF: /sys/kernel/btf/vmlinux. 0, -ENOENT: something is not there, or -errno. */
FFI_EXPORT int marker_kernel_read(const char *path, struct marker_kernel *out);

/*
 * From now on programs of section "tc" are completed when libbpf loads them. 0: with what the running kernel
 * tells; else -errno, as marker_kernel_read, and they must not come by a placeholder. The kernel is asked
 * once.
 */
int marker_kernel_use(void);

/* What else goes into the programs that this thread loads next. Sizes are powers of two, 0: elements. */
struct marker_kernel_load {
	bool known; /* marker_kernel_use() */
	const struct bpf_map *cpus, *flows;
	uint32_t cpus_flat;
	uint32_t flows_flat;
	int32_t factor;
};

void marker_kernel_set(const struct marker_kernel_load *load);
/* The hash's factor, which may be known later than the rest. */
void marker_kernel_set_factor(int32_t factor);

#endif
#endif
