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

#ifndef __bpf__

#include <stdbool.h>
#include <stdint.h>

#include "ffi_export.h"

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

#endif
#endif
