/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console_socket.h - the console's Unix socket: made, left, and who is at the other end.
 */
#ifndef CONSOLE_SOCKET_H
#define CONSOLE_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

enum {
	CONSOLE_NOBODY = 0xffffffff, /* no such group */
	CONSOLE_ACCESS_NONE = 0,
	CONSOLE_ACCESS_READ = 1, /* questions, no changes */
	CONSOLE_ACCESS_FULL = 2,
};

struct console_peer {
	uint32_t uid;
	uint32_t gid;
	int32_t pid;
	uint32_t access; /* CONSOLE_ACCESS_* */
};

/*
 * Listen at `path`. A socket file that nobody answers at is replaced; anything else there is refused.
 * Owner: this process's user; group: `gid` unless CONSOLE_NOBODY; mode: before anybody can connect.
 * Returns the descriptor, non-blocking and close-on-exec; -errno with a sentence in `error`.
 */
int console_socket_listen(const char *path, uint32_t mode, uint32_t gid, char *error, size_t error_size);

/* Connect, waiting. Returns the descriptor, close-on-exec, or -errno. */
FFI_EXPORT int console_socket_connect(const char *path);

/*
 * Who connected (SO_PEERCRED, SO_PEERGROUPS: as the process was when it connected). Full access for root,
 * the user that this process runs as, and members of `group`; read access for members of `readonly_group`.
 * Either may be CONSOLE_NOBODY. Returns 0 or -errno.
 */
int console_socket_peer(int fd, uint32_t group, uint32_t readonly_group, struct console_peer *peer);

#endif
