/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sock_diag.h - ask the kernel about single TCP sockets of this network namespace (sock_diag(7)).
 *
 * Exact questions, by 5-tuple and cookie, many in one system call; never a dump of all
 * sockets. A cookie is the kernel's number for a socket: no other one gets it during this boot, and
 * BPF programs see the same number.
 */
#ifndef SOCK_DIAG_H
#define SOCK_DIAG_H

#include "ffi_export.h"
#include "flow_abi.h"

enum sock_diag_answer {
	SOCK_DIAG_UNKNOWN, /* the kernel gave no answer, or one that will soon be another */
	SOCK_DIAG_GONE,	   /* no such socket, or it only waits for late packets (TIME_WAIT) */
	SOCK_DIAG_THERE,
};

struct sock_diag_question {
	struct flow_key key; /* TCP; src is the local end */
	uint64_t cookie;     /* 0: any socket of that 5-tuple; then the answer sets it */
	uint32_t answer;     /* enum sock_diag_answer */
	uint32_t slot;	     /* the caller's */
};

/* Questions that go to the kernel at once. */
enum { SOCK_DIAG_BATCH = 64 };

struct sock_diag;

/* Sockets of the namespace that the process is in now. NULL when the kernel cannot tell (no tcp_diag): one
 * line in `error`. */
FFI_EXPORT struct sock_diag *sock_diag_open(char *error, size_t error_size);
FFI_EXPORT void sock_diag_close(struct sock_diag *d);

/* Set the answers, two system calls for each SOCK_DIAG_BATCH of them. */
FFI_EXPORT void sock_diag_ask(struct sock_diag *d, struct sock_diag_question *questions, uint32_t count);

#endif
