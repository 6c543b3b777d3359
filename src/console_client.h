/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console_client.h - the other end of the console: for the commands eval, console and reapply.
 */
#ifndef CONSOLE_CLIENT_H
#define CONSOLE_CLIENT_H

#include <stddef.h>
#include <stdint.h>
#include "console_frame.h"
#include "ffi_export.h"

struct console_client;

/* NULL when there is no memory. Takes over `fd` (console_socket_connect). */
FFI_EXPORT struct console_client *console_client_new(int fd);
FFI_EXPORT void console_client_free(struct console_client *c);

/* Send a request, waiting. Returns 0 or -errno; -EPIPE may be followed by what the daemon said before. */
FFI_EXPORT int console_client_send(struct console_client *c, uint8_t type, const char *body, size_t length);

/* Nobody waits for the answer to what was sent last any more: it is interrupted, and not received. */
FFI_EXPORT void console_client_forgo(struct console_client *c);

/* From now on SIGINT does not end this process: receiving returns -EINTR, once for each signal. */
FFI_EXPORT void console_client_catch_interrupt(void);

/*
 * The next frame, waiting at most timeout_ms (-1: for ever); its body is valid until the next call. Returns
 * 1; 0: time is up; -EINTR: a signal came; -ECONNRESET: the daemon closed the connection; -errno.
 */
FFI_EXPORT int console_client_receive(struct console_client *c, int timeout_ms, struct console_frame *frame);

#endif
