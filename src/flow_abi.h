/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * flow_abi.h - the structs that BPF programs, C and Lua share.
 *
 * The one place where they are written. The build hands this very text to
 * LuaJIT's ffi.cdef and makes the C compiler assert, for each struct and field,
 * the size and offset that LuaJIT computed. LuaJIT's parser knows no macros, no
 * _Static_assert and no _Alignas: constants here are enums.
 *
 * Octet order: addresses as on the wire, everything else in host order.
 * Times: microseconds of UNIX time (UTC); 0 means unset.
 */
#ifndef FLOW_ABI_H
#define FLOW_ABI_H

#ifndef FLOWD_CDEF
#ifdef __bpf__
#include <linux/types.h>
typedef __u8 uint8_t;
typedef __u16 uint16_t;
typedef __u32 uint32_t;
typedef __u64 uint64_t;
#else
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#endif
#endif

enum {
	FLOW_EXPERIMENT_MAX = 511, /* 9 bits of a flow label; 0 = unset */
	FLOW_ACTIVITY_MAX = 63,	   /* 6 bits; 0 = unset */
	FLOW_ACTIVITY_DEFAULT = 1,
	FLOW_APPLICATION_SIZE = 48, /* octets, with the closing NUL */
	FLOW_ROUTE_ALL = -1,	    /* every backend */
	FLOW_BACKENDS_MAX = 31,	    /* bits of a route */
	FLOW_SLOT_NONE = -1,
};

/* IANA protocol numbers. */
enum { FLOW_TCP = 6, FLOW_UDP = 17 };

enum flow_state { FLOW_START = 1, FLOW_ONGOING = 2, FLOW_END = 3 };

/* An IPv6 address, or an IPv4 address in its IPv4-mapped form (RFC 4291, 2.5.5.2). */
struct flow_address {
	union {
		uint8_t octet[16];
		uint32_t word[4];
		uint64_t half[2];
	};
};

/* The 5-tuple, seen from this host: src is the local end. Unused octets are 0. */
struct flow_key {
	struct flow_address src;
	struct flow_address dst;
	uint16_t src_port;
	uint16_t dst_port;
	uint8_t protocol; /* FLOW_TCP or FLOW_UDP */
	uint8_t family;	  /* 4 or 6 */
	uint16_t zero;
};

/* What the marker did with a packet: its counters. */
enum marker_packet {
	MARKER_MARKED,	   /* of a marked flow: the label was written */
	MARKER_MISSED,	   /* from a port that some marked flow has, of none; those from other ports are not
			      counted */
	MARKER_NOT_IPV6,   /* the rest is left alone too, and these are the reasons */
	MARKER_PROTOCOL,   /* IPv6, but neither TCP nor UDP */
	MARKER_FRAGMENT,   /* a later fragment: without ports */
	MARKER_TRUNCATED,  /* ends before its ports */
	MARKER_EXTENSIONS, /* more extension headers than are walked */
	MARKER_WRITE,	   /* the kernel refused the write (out of memory) */
	MARKER_REUSED,	   /* of a marked flow's 5-tuple, from another TCP socket */
	MARKER_EXPIRED,	   /* of a marked flow, but the daemon has not renewed its lease */
	MARKER_PACKET_KINDS,
};

#endif
