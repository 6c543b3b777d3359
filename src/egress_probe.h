/* SPDX-License-Identifier: Apache-2.0 */
/*
 * egress_probe.h - a few datagrams of our own through an interface, and a look at how they leave it.
 *
 * They go from an IPv6 address of the interface to ff02::114, the link-local group for experiments (RFC
 * 4727), port 9 (discard), with hop limit 1 and no copy for this host: no router forwards them, no neighbour
 * is asked for, nobody answers. On the loopback interface they go from ::1 to ::1. What is captured is what
 * an AF_PACKET socket sees of them behind the egress programs. Takes CAP_NET_RAW.
 */
#ifndef EGRESS_PROBE_H
#define EGRESS_PROBE_H

#include "flow_abi.h"
#include "ffi_export.h"

struct egress_probe {
	struct flow_key key; /* of the datagrams */
	int32_t ifindex;
	int32_t socket;	 /* owned */
	int32_t capture; /* owned */
};

/* What was seen of the datagrams. */
struct egress_seen {
	uint32_t sent;
	uint32_t captured;
	uint32_t labelled;    /* of these, with the expected flow label */
	uint32_t other_label; /* the flow label of the last one that had another */
};

/*
 * Get ready. 0, or -errno and a sentence that names the interface: -ENODEV there is none, -ENETDOWN it is
 * down, -EADDRNOTAVAIL it has no IPv6 address that can be sent from, -EPERM.
 */
FFI_EXPORT int egress_probe_open(struct egress_probe *p, const char *interface, char *error,
				 size_t error_size);

/* Send `count` datagrams and capture them; waits up to a second. 0, or -errno and a sentence. */
FFI_EXPORT int egress_probe_send(struct egress_probe *p, uint32_t count, uint32_t label,
				 struct egress_seen *seen, char *error, size_t error_size);

FFI_EXPORT void egress_probe_close(struct egress_probe *p);

#endif
