/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * kernel.h - what the daemon puts into the instructions of a program before the kernel sees it: where
 * the few fields of kernel structs are that a program reads (Linux 6.2), and where its tables are. See
 * marker_kernel.h. A constant that is in an instruction costs no look into memory.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#include "marker_flows.h"
#include "marker_kernel.h"

/* Does all of this work here? Else it must not be come by, and fields have not their places. */
static __always_inline bool kernel_known(void)
{
	__u64 unknown;

	asm volatile("%0 = %1" : "=r"(unknown) : "i"(MARKER_KERNEL_UNKNOWN));
	return !unknown;
}

/* -- fields ----------------------------------------------------------------------------- */

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

/* -- tables that are one element each -------------------------------------------------- */

static __always_inline bool kernel_cpus_flat(void)
{
	__u64 elements;

	asm volatile("%0 = %1" : "=r"(elements) : "i"(MARKER_KERNEL_CPUS_ELEMENTS));
	return !elements;
}

static __always_inline bool kernel_flows_flat(void)
{
	__u64 elements;

	asm volatile("%0 = %1" : "=r"(elements) : "i"(MARKER_KERNEL_FLOWS_ELEMENTS));
	return !elements;
}

/* An address that the compiler need not ask whether it is one. */
#define kernel_there(address)                    \
	({                                       \
		if (!(address))                  \
			__builtin_unreachable(); \
		address;                         \
	})

static __always_inline struct marker_cpu *kernel_cpus(void)
{
	struct marker_cpu *first;

	asm volatile("%0 = %1 ll" : "=r"(first) : "i"(MARKER_KERNEL_CPUS));
	return kernel_there(first);
}

/* A number that the kernel has for a CPU is unchanged; the verifier sees that none is beyond the table. */
static __always_inline __u64 kernel_cpu_within(__u64 number)
{
	asm volatile("%0 &= %1" : "+r"(number) : "i"(MARKER_KERNEL_CPU_MASK));
	return number;
}

static __always_inline __u64 *kernel_tags(void)
{
	__u64 *first;

	asm volatile("%0 = %1 ll" : "=r"(first) : "i"(MARKER_KERNEL_TAGS));
	return kernel_there(first);
}

static __always_inline struct marker_entry *kernel_entries(void)
{
	struct marker_entry *first;

	asm volatile("%0 = %1 ll" : "=r"(first) : "i"(MARKER_KERNEL_ENTRIES));
	return kernel_there(first);
}

static __always_inline struct marker_rest *kernel_rests(void)
{
	struct marker_rest *first;

	asm volatile("%0 = %1 ll" : "=r"(first) : "i"(MARKER_KERNEL_RESTS));
	return kernel_there(first);
}

static __always_inline __u64 kernel_entry_within(__u64 number)
{
	asm volatile("%0 &= %1" : "+r"(number) : "i"(MARKER_KERNEL_ENTRY_MASK));
	return number;
}

#endif
