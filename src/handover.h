/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handover.h - replace this process by a new image of the binary, with open descriptors.
 *
 * Restart, upgrade, crash and a script that never returns all end in handover_exec(): execve(2)
 * keeps the pid, and with it whatever supervises us. The descriptors that were offered under a
 * name stay open; the new image takes them by name. Descriptors from systemd's file-descriptor
 * store (sd_listen_fds(3)) are taken the same way: one path for all.
 */
#ifndef HANDOVER_H
#define HANDOVER_H

#include <stdbool.h>
#include "ffi_export.h"

enum { HANDOVER_MAX = 128, HANDOVER_NAME_SIZE = 200 };

/* First thing in main(): remembers how we were started and what was handed to us. */
void handover_init(char **argv);

/* The path that handover_exec() starts. */
FFI_EXPORT const char *handover_binary(void);

/* Were we started by handover_exec()? */
FFI_EXPORT bool handover_resumed(void);

/* The descriptor that was handed to us under this name, now the caller's and close-on-exec; -1: none. */
FFI_EXPORT int handover_take(const char *name);

/* Close what was handed to us and nobody took. Returns how many there were. */
FFI_EXPORT int handover_close_rest(void);

/*
 * Offer a descriptor (borrowed) to the next image. Names are up to HANDOVER_NAME_SIZE-1 octets without
 * control characters. A name that was offered before gets the new descriptor.
 * Returns 0, -EINVAL for the name, -ENOSPC when HANDOVER_MAX are offered.
 */
FFI_EXPORT int handover_offer(const char *name, int fd);

/* To be called before the descriptor is closed. Unknown names are no error. */
FFI_EXPORT void handover_withdraw(const char *name);

/*
 * Replace this process. Async-signal-safe. Signal mask and interval timers, which would outlive the
 * exec, are reset. The binary is the file that stands now where ours was started from: a newer one after
 * an upgrade. Returns only when that fails: -errno.
 */
FFI_EXPORT int handover_exec(void);

#endif
