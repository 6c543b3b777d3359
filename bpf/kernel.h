/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * kernel.h - the few fields of kernel structs that a program reads, wherever this kernel has them,
 * and what it needs to read them (Linux 6.2).
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct kernel_cookie {
	__s64 counter;
};

struct sock_common {
	struct kernel_cookie skc_cookie;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
} __attribute__((preserve_access_index));

struct sk_buff {
	struct sock *sk;
	__u8 cloned : 1;
} __attribute__((preserve_access_index));

/* The sk_buff behind a program's context. */
extern void *bpf_cast_to_kern_ctx(void *) __ksym __weak;

#endif
