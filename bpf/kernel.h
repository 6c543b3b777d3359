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

/*
 * bpf_cast_to_kern_ctx() makes the sk_buff of a program's context. The call costs nothing, but is one for the
 * compiler. No register outlives it (r7 to r9): the program would have to save those first, for every packet.
 */
#define KERNEL_CALL_CLOBBERS "r2", "r3", "r4", "r5", "r7", "r8", "r9"

/* Not 0: somebody else has the packet too, and it must not be written to. */
static __always_inline __u64 kernel_cloned(struct __sk_buff *skb)
{
	register __u64 cloned asm("r0");

	asm volatile("r1 = %1\n"
		     "call %2\n"
		     "r0 = *(u8 *)(r0 + %3)\n"
		     "r0 &= %3"
		     : "=r"(cloned)
		     : "r"(skb), "i"(MARKER_KERNEL_CAST), "i"(MARKER_KERNEL_CLONED)
		     : "r1", KERNEL_CALL_CLOBBERS);
	return cloned;
}

/* The same; and the cookie of the socket that sends it. 0: it has none yet, or there is no socket. */
static __always_inline __u64 kernel_cookie(struct __sk_buff *skb, __u64 *is_cloned)
{
	register __u64 cookie asm("r0");
	register __u64 cloned asm("r1");

	asm volatile("r1 = %2\n"
		     "call %3\n"
		     "r1 = *(u8 *)(r0 + %4)\n"
		     "r1 &= %4\n"
		     "r0 = *(u64 *)(r0 + %5)\n"
		     "if r0 == 0 goto 1f\n"
		     "r0 = *(u64 *)(r0 + %6)\n"
		     "1:"
		     : "=r"(cookie), "=r"(cloned)
		     : "r"(skb), "i"(MARKER_KERNEL_CAST), "i"(MARKER_KERNEL_CLONED),
		       "i"(MARKER_KERNEL_SOCKET), "i"(MARKER_KERNEL_COOKIE)
		     : KERNEL_CALL_CLOBBERS);
	*is_cloned = cloned;
	return cookie;
}

/* 0: no socket sends it. */
static __always_inline __u64 kernel_has_socket(struct __sk_buff *skb)
{
	register __u64 has asm("r0");

	asm volatile("r1 = %1\n"
		     "call %2\n"
		     "r1 = *(u64 *)(r0 + %3)\n"
		     "r0 = 0\n"
		     "if r1 == 0 goto 1f\n"
		     "r0 = 1\n"
		     "1:"
		     : "=r"(has)
		     : "r"(skb), "i"(MARKER_KERNEL_CAST), "i"(MARKER_KERNEL_SOCKET)
		     : "r1", KERNEL_CALL_CLOBBERS);
	return has;
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

/* By the factor of this table. */
static __always_inline __u64 kernel_times_factor(__u64 number)
{
	asm volatile("%0 *= %1" : "+r"(number) : "i"(MARKER_KERNEL_FACTOR));
	return number;
}

/* The high bits of a hash. */
static __always_inline __u64 kernel_entry_own(__u64 hash)
{
	asm volatile("%0 >>= %1" : "+r"(hash) : "i"(MARKER_KERNEL_ENTRY_SHIFT));
	return hash;
}

static __always_inline __u64 kernel_entry_within(__u64 number)
{
	asm volatile("%0 &= %1" : "+r"(number) : "i"(MARKER_KERNEL_ENTRY_MASK));
	return number;
}

#endif
