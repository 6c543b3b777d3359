/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.h - one connection, TCP or Unix, with or without TLS, over a libevent bufferevent.
 *
 * Both directions are bounded: input is read until input_max octets wait (then the peer waits), output
 * is refused when more than output_max would wait. What waits in either direction is memory of whoever owns
 * the stream (stream_own).
 *
 * What happens to a stream is told by its number to one function of the process (stream_setup), from the
 * event loop and never from within a call of this header; after stream_free() nothing is told any more.
 * Numbers start at 1 and are not used again (before 4 billion streams).
 */
#ifndef STREAM_H
#define STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "flow_abi.h"
#include "tls.h"
#include "ffi_export.h"

struct event_base;
struct heap;
struct stream;

/* What is told. */
enum stream_event {
	STREAM_CONNECTED = 1, /* connected; again when TLS is established */
	STREAM_INPUT = 2,     /* there is something to read */
	STREAM_DRAINED = 3,   /* all that was written went to the system; only when asked for */
	STREAM_END = 4,	      /* the peer says that nothing more comes; what was read before still waits */
	STREAM_FAILED = 5,    /* it is broken: stream_error() */
	STREAM_STARVED = 6,   /* what came is more than the owner may hold: only good for closing */
};

/* For the binding: where streams live and whom they tell. Once, before the first stream. */
void stream_setup(struct event_base *base, void (*tell)(uint32_t id, uint32_t event));

/* A stream without connection. Limits in octets, 1 or more. NULL: out of memory. Owned by the caller. */
FFI_EXPORT struct stream *stream_new(uint32_t input_max, uint32_t output_max);

/* Close it at once: what waits is lost. A TLS peer is told the end. NULL is allowed. */
FFI_EXPORT void stream_free(struct stream *s);

FFI_EXPORT uint32_t stream_id(const struct stream *s);

/* From now on what waits counts as an owner's memory (heap.h); nothing may wait yet. The heap is borrowed;
 * NULL: it is not counted. */
FFI_EXPORT void stream_own(struct stream *s, struct heap *heap, uint32_t owner);

/* Begin to connect; STREAM_CONNECTED or STREAM_FAILED follows. 0 or -errno. Once; a stream whose connection
 * failed is of no use any more. */
FFI_EXPORT int stream_connect(struct stream *s, const struct flow_address *address, uint16_t port);
FFI_EXPORT int stream_connect_unix(struct stream *s, const char *path);

/* Use a connected socket, which becomes the stream's also on errors. Nothing is told of this. 0 or -errno. */
FFI_EXPORT int stream_take(struct stream *s, int fd);

/* From here on TLS. The connection is made and nothing waits in either direction: else -EBUSY.
 * STREAM_CONNECTED or STREAM_FAILED follows. host: see tls_session(). -EINVAL: no such host; other -errno:
 * the stream is broken. */
FFI_EXPORT int stream_start_tls(struct stream *s, const struct tls_context *tls, bool server,
				const char *host);

/* Read on, or leave it to the kernel (and so to the peer) for now. A new stream reads. */
FFI_EXPORT void stream_reading(struct stream *s, bool on);

/* Octets that wait to be taken. */
FFI_EXPORT size_t stream_waiting(const struct stream *s);
/* Take up to `size` octets; returns how many. */
FFI_EXPORT size_t stream_read(struct stream *s, char *out, size_t size);
/* Take one line, without its newline and a carriage return before that. Returns its length; -EAGAIN: there
 * is no whole line; -EMSGSIZE: the line has more than `size` octets. */
FFI_EXPORT int64_t stream_read_line(struct stream *s, char *out, size_t size);

/* Queue a copy. 0; nothing was taken: -ENOBUFS: output_max would be passed, -EDQUOT: what the owner may hold,
 * other -errno. */
FFI_EXPORT int stream_write(struct stream *s, const char *data, size_t length);
/* Octets that the system has not taken yet. */
FFI_EXPORT size_t stream_queued(const struct stream *s);
/* Tell STREAM_DRAINED from now on, or not. Of a queue that is empty already it is not told. */
FFI_EXPORT void stream_tell_drained(struct stream *s, bool on);
/* Nothing more is written: tell the peer. What waits is not waited for. */
FFI_EXPORT void stream_shutdown(struct stream *s);

/* Why it failed, "" before. Valid until the stream is freed. */
FFI_EXPORT const char *stream_error(const struct stream *s);

/* The descriptor, -1: none. The stream's. */
FFI_EXPORT int stream_fd(const struct stream *s);

#endif
