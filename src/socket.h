/* SPDX-License-Identifier: Apache-2.0 */
/*
 * socket.h - sockets that listen, and those of datagrams: system calls for Lua.
 *
 * All descriptors are non-blocking, close-on-exec, and the caller's. Errors are -errno.
 */
#ifndef SOCKET_H
#define SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "flow_abi.h"
#include "ffi_export.h"

/* Listen for TCP connections. "::" takes IPv4 connections too. port 0: any that is free. */
FFI_EXPORT int socket_listen(const struct flow_address *address, uint16_t port, int backlog);

/* A UDP socket bound to address and port (0: any that is free). "::" receives IPv4 datagrams too, and
 * sends them. */
FFI_EXPORT int socket_udp(const struct flow_address *address, uint16_t port);

/* Make a UDP socket send to, and receive from, one peer. 0 or -errno. */
FFI_EXPORT int socket_connect(int fd, const struct flow_address *address, uint16_t port);

/* The port it is bound to, in host order, or -errno. */
FFI_EXPORT int socket_port(int fd);

/* The next connection: its descriptor, and who it is (zeros for Unix); -EAGAIN: there is none now. */
FFI_EXPORT int socket_accept(int fd, struct flow_address *peer, uint16_t *port);

/* What stands at the path of a Unix socket. */
struct socket_path {
	uint64_t device;
	uint64_t inode;
};

/*
 * A Unix socket at `path`: one that listens, or for datagrams. mode: permission bits; uid, gid: UINT32_MAX
 * for the daemon's. A socket that nobody listens on any more is replaced; one in use is -EADDRINUSE, anything
 * else at the path -EEXIST. *made says what stands there now.
 */
FFI_EXPORT int socket_unix(const char *path, bool datagrams, uint32_t mode, uint32_t uid, uint32_t gid,
			   int backlog, struct socket_path *made);

/* Remove the path if it still is what was made. */
FFI_EXPORT void socket_unix_remove(const char *path, const struct socket_path *made);

/* A Unix datagram socket without a path, for sending. */
FFI_EXPORT int socket_unix_sender(void);

#endif
