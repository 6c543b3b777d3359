/* SPDX-License-Identifier: Apache-2.0 */
/*
 * notify.h - tell the service manager how we are: the datagrams of sd_notify(3).
 *
 * Without NOTIFY_SOCKET in the environment every call does nothing and returns 0. (libsystemd has no
 * static library on Debian; the protocol is one datagram, documented as stable.)
 */
#ifndef NOTIFY_H
#define NOTIFY_H

#include <stdbool.h>
#include <stdint.h>
#include "ffi_export.h"

/* Send assignments, "READY=1\nSTATUS=…". Returns 1 when sent, 0 without a manager, -errno. */
FFI_EXPORT int notify_send(const char *assignments);

/* Keep a descriptor in the manager's store: after a restart it comes back under this name
 * (handover.h). Returns as notify_send(); -EINVAL for a name with ':' or control characters. */
FFI_EXPORT int notify_store(const char *name, int fd);

/* Drop it from the store again. */
FFI_EXPORT int notify_unstore(const char *name);

/* Interval at which WATCHDOG=1 must be sent, in µs; 0: no watchdog. Send at half of it. */
FFI_EXPORT uint64_t notify_watchdog_us(void);

#endif
