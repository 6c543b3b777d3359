/* SPDX-License-Identifier: Apache-2.0 */
/*
 * subprocess.h - start a program whose output comes back through a pipe.
 *
 * The child has an empty signal mask, a file or /dev/null as its input, and both its outputs on the pipe.
 */
#ifndef SUBPROCESS_H
#define SUBPROCESS_H

#include "ffi_export.h"

/* argv: NULL-terminated, argv[0] a path (no PATH search). input: a descriptor that the child reads from its
 * start, borrowed; -1: nothing. Returns the pid, or -errno. *output is the pipe's reading end: the caller's,
 * non-blocking, close-on-exec. */
FFI_EXPORT int subprocess_start(const char *const *argv, int input, int *output);

/* Has it ended? Its exit status, 128 + signal when a signal ended it, -EAGAIN while it runs, -errno. */
FFI_EXPORT int subprocess_status(int pid);

/* kill(2), for a child that takes too long. */
FFI_EXPORT void subprocess_kill(int pid);

#endif
