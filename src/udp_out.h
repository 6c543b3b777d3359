/* SPDX-License-Identifier: Apache-2.0 */
/*
 * udp_out.h - one way out for datagrams: a non-blocking socket and a bounded queue.
 *
 * Either connected to one peer, a collector (udp_out_connect), so that the network's errors
 * are known to be that peer's; or not connected (udp_out_open), shared by all peers of an
 * address family, each datagram with its own address.
 *
 * Datagrams are pushed one by one and leave with udp_out_flush, one sendmmsg(2) for up to
 * 1,024 of them. Two or more in a row for one address go as one message with UDP_SEGMENT
 * (Linux 4.18): all but the last are padded with blanks to the longest one's length, so the
 * payload must be of a kind that allows trailing blanks, as JSON does. Where that cannot
 * be sent (EINVAL, EMSGSIZE, EIO: path MTU, IPsec) the peer gets single datagrams.
 *
 * The caller is never kept waiting. What the kernel does not take now stays queued; a full
 * queue is flushed early or, when that cannot be, drops its oldest datagram and counts it. A peer that
 * refuses (ICMP errors) keeps its queue too: every second the oldest datagram is sent to try; when no refusal
 * came back the rest follows. An unconnected output hears of no refusal.
 *
 * The caller runs the loop: udp_out_flush and udp_out_notice return what is wanted next.
 */
#ifndef UDP_OUT_H
#define UDP_OUT_H

#include "counter.h"
#include "flow_abi.h"
#include "ffi_export.h"

enum udp_out_state {
	UDP_OUT_READY = 0,   /* nothing to wait for */
	UDP_OUT_BLOCKED = 1, /* flush again when the descriptor is writable */
	UDP_OUT_WAITING = 2, /* flush again in udp_out_retry_in() seconds */
	UDP_OUT_DOWN = 3,    /* the same; the peer, or the way to it, refused at the last attempt */
	UDP_OUT_PROBING = 4, /* the same; one datagram was sent to try, no refusal so far */
	UDP_OUT_CLOSED = 5,  /* no socket yet: datagrams are queued */
};

enum { UDP_OUT_QUEUE_MAX = 1000000 };

/* Where an output counts; all borrowed, none NULL, may be shared by outputs. */
struct udp_out_counters {
	struct counter *sent;	      /* datagrams that the kernel took */
	struct counter *octets;	      /* of their payload, padding included */
	struct counter *segmented;    /* those of `sent` that left by UDP_SEGMENT */
	struct counter *calls;	      /* sendmmsg calls that took something */
	struct counter *refused;      /* ICMP errors that came back: port, host or net unreachable... */
	struct counter *failed;	      /* errors of the send itself: no route, forbidden, no memory... */
	struct counter *dropped_full; /* the oldest of a full queue */
	struct counter *dropped_too_big;
	struct counter *dropped_unsendable; /* no route to it, forbidden, no unicast address */
	struct counter *dropped_stopped;    /* still queued at the end */
	struct counter *queued;		    /* gauge: after the last flush */
};

struct udp_out;

/* A new output, closed as yet. `name` says in the log what it is for (copied). queue_max:
 * 1..UDP_OUT_QUEUE_MAX. NULL: out of memory. */
FFI_EXPORT struct udp_out *udp_out_new(const char *name, uint32_t queue_max,
				       const struct udp_out_counters *counters);
/* Datagrams still queued are forgotten: see udp_out_give_up. NULL is allowed. */
FFI_EXPORT void udp_out_free(struct udp_out *out);

/*
 * (Re)connect to a peer, port in host order. What is queued stays. With `try_first`, and
 * always when something is queued, a single datagram goes first, and the rest when it was
 * not refused. A route that is missing is no error here: the output is DOWN and tries
 * again. Returns 0; -errno when there can be no such socket (state CLOSED), which is
 * logged.
 */
FFI_EXPORT int udp_out_connect(struct udp_out *out, const struct flow_address *address, uint16_t port,
			       bool try_first);

/* Open for any peer of a family, 4 or 6. 0, or -errno, which is logged. */
FFI_EXPORT int udp_out_open(struct udp_out *out, int family);

/* Whether UDP_SEGMENT may be used at all (default: yes). Either way, forget for which peers
 * it did not work: called now and then, as paths change. */
FFI_EXPORT void udp_out_segments(struct udp_out *out, bool allowed);

/* Queue a copy of a datagram. `to` is NULL on a connected output. More than
 * UDP_PAYLOAD_MAX octets: counted as too big. Works in every state. */
FFI_EXPORT void udp_out_push(struct udp_out *out, const char *data, size_t length,
			     const struct flow_address *to, uint16_t port);

/* Send what is queued. Returns enum udp_out_state. */
FFI_EXPORT int udp_out_flush(struct udp_out *out);

/* The descriptor is readable: take in errors that came back. Returns enum udp_out_state. */
FFI_EXPORT int udp_out_notice(struct udp_out *out);

FFI_EXPORT int udp_out_state(const struct udp_out *out);
/* Seconds until the next flush is due, in state WAITING, DOWN and PROBING; may be 0. */
FFI_EXPORT double udp_out_retry_in(const struct udp_out *out);
/* -1: closed. It changes only with udp_out_connect and udp_out_open. */
FFI_EXPORT int udp_out_fd(const struct udp_out *out);
FFI_EXPORT uint32_t udp_out_queued(const struct udp_out *out);

/* The end: send what can be sent at once, whatever the state; count the rest as
 * dropped_stopped and forget it. Returns how many that were. */
FFI_EXPORT uint32_t udp_out_give_up(struct udp_out *out);

/* For C callers that write datagrams in place: room for UDP_PAYLOAD_MAX octets, valid until
 * the next call; then how many of them are the datagram. */
char *udp_out_reserve(struct udp_out *out);
void udp_out_commit(struct udp_out *out, size_t length, const struct flow_address *to, uint16_t port);

#endif
