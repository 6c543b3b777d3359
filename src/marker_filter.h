/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * marker_filter.h - which bit of a set of flows stands for a flow: computed by the program for a
 * packet and by the daemon for a mark, so it is written once.
 *
 * Several flows share a bit. A bit that is not set says for certain that there is no such flow; one
 * that is set says to look. Of a flow, its peer's address and both ports count: the other end of a
 * busy server port is what differs. The set outlives the daemon: with another hash it is another
 * layout (MARKER_PINS_LAYOUT).
 */
#ifndef MARKER_FILTER_H
#define MARKER_FILTER_H

#include "flow_abi.h"

enum {
	MARKER_FILTER_SHIFT = 22,
	MARKER_FILTER_BITS = 1 << MARKER_FILTER_SHIFT, /* 512 KiB; 2 of 100 are set by 100,000 flows */
};

/* Ports in host octet order. The result is below MARKER_FILTER_BITS. */
static inline __attribute__((always_inline)) uint32_t marker_filter_bit(const uint32_t peer[4],
									uint16_t src_port, uint16_t dst_port)
{
	uint64_t hash = ((uint64_t)peer[0] << 32 | peer[1]) * 0x9E3779B97F4A7C15ULL;

	hash ^= hash >> 32;
	hash = (hash ^ ((uint64_t)peer[2] << 32 | peer[3])) * 0xC2B2AE3D27D4EB4FULL;
	hash ^= hash >> 32;
	hash = (hash ^ ((uint32_t)src_port << 16 | dst_port)) * 0x9E3779B97F4A7C15ULL;
	return (uint32_t)(hash >> (64 - MARKER_FILTER_SHIFT));
}

#endif
