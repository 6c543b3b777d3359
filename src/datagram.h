/* SPDX-License-Identifier: Apache-2.0 */
/*
 * datagram.h - datagrams in, many at a time, and out, one by one: for sockets of socket.h.
 */
#ifndef DATAGRAM_H
#define DATAGRAM_H

#include <stddef.h>
#include <stdint.h>

#include "flow_abi.h"
#include "ffi_export.h"

enum {
	DATAGRAM_BATCH = 64,	   /* taken by one system call */
	DATAGRAM_SIZE_MAX = 65535, /* octets */
};

struct datagram {
	const char *data;
	uint32_t length;	  /* octets in data */
	uint16_t port;		  /* of the sender, host order; 0: Unix */
	uint16_t cut;		  /* 1: it was longer than the reader's size */
	struct flow_address from; /* zeros: Unix */
};

struct datagram_reader;

/* A reader of datagrams of up to `size` octets, 1..DATAGRAM_SIZE_MAX. Takes DATAGRAM_BATCH times that. NULL:
 * out of memory. Owned by the caller. */
FFI_EXPORT struct datagram_reader *datagram_reader_new(uint32_t size);
FFI_EXPORT void datagram_reader_free(struct datagram_reader *r);

/* Take what waits, up to DATAGRAM_BATCH. Returns how many; 0: nothing waits now; -errno, also for ICMP
 * errors that came back on a connected socket. */
FFI_EXPORT int datagram_receive(struct datagram_reader *r, int fd);

/* One of those, 0..n-1. Valid until the next datagram_receive(). */
FFI_EXPORT const struct datagram *datagram_at(const struct datagram_reader *r, uint32_t n);

/* How many datagrams the kernel had dropped from the socket's full queue, as known by the last
 * datagram that arrived. */
FFI_EXPORT uint32_t datagram_lost(const struct datagram_reader *r);

/* Send one; `to` NULL: the connected peer. 0; -EAGAIN: the system takes no more now; -errno. IPv4
 * addresses may be sent to from a socket bound to "::". */
FFI_EXPORT int datagram_send(int fd, const char *data, size_t length, const struct flow_address *to,
			     uint16_t port);
FFI_EXPORT int datagram_send_unix(int fd, const char *data, size_t length, const char *path);

#endif
