/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * kernel.h - the few fields of kernel structs that a program reads, wherever this kernel has them
 * (Linux 6.2). Where that is comes from the daemon: marker_kernel.h.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#include "marker_kernel.h"

struct kernel_skb;
struct kernel_sock;

/* The sk_buff behind a program's context: bpf_cast_to_kern_ctx(). */
static __always_inline struct kernel_skb *kernel_skb(struct __sk_buff *skb)
{
	struct kernel_skb *kernel;

	asm volatile("r1 = %1\n"
		     "call %2\n"
		     "%0 = r0"
		     : "=r"(kernel)
		     : "r"(skb), "i"(MARKER_KERNEL_CAST)
		     : "r0", "r1", "r2", "r3", "r4", "r5");
	return kernel;
}

/* The socket that sends it, or NULL. */
static __always_inline struct kernel_sock *kernel_skb_socket(struct kernel_skb *skb)
{
	struct kernel_sock *socket;

	asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(socket) : "r"(skb), "i"(MARKER_KERNEL_SOCKET));
	return socket;
}

static __always_inline bool kernel_skb_cloned(struct kernel_skb *skb)
{
	__u64 cloned;

	asm volatile("%0 = *(u8 *)(%1 + %2)\n"
		     "%0 &= %2"
		     : "=r"(cloned)
		     : "r"(skb), "i"(MARKER_KERNEL_CLONED));
	return cloned;
}

/* 0: it has none yet. */
static __always_inline __u64 kernel_sock_cookie(struct kernel_sock *socket)
{
	__u64 cookie;

	asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(cookie) : "r"(socket), "i"(MARKER_KERNEL_COOKIE));
	return cookie;
}

#endif
