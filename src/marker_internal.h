/* SPDX-License-Identifier: Apache-2.0 */
/* marker_internal.h - what the files of the marker share. Not for others. */
#ifndef MARKER_INTERNAL_H
#define MARKER_INTERNAL_H

#include "marker.h"

struct label_bpf; /* the skeleton of bpf/label.bpf.c */

/* A change of the table that waits for marker_flush. */
struct marker_change {
	struct flow_key key;
	uint32_t slot;	/* of the flow that the key belongs to when the batch is done */
	uint32_t label; /* when `marked` */
	bool was_marked;
	bool marked;
};

enum {
	MARKER_CHANGES_MAX = FLOW_BATCH_MAX,
	MARKER_INDEX_SIZE = 4 * MARKER_CHANGES_MAX, /* a power of two */
};

/* The marks, seen from here. */
struct marker_table {
	int fd;		       /* of the BPF hash; borrowed from the skeleton */
	uint64_t *local_ports; /* the program's bitmap; borrowed, mapped */
	uint32_t *port_flows;  /* marked flows of each local port: 65,536 */
	uint32_t *slot;	       /* each slot of the flow table: print of its key that is in the hash, or 0 */
	uint32_t slots;	       /* allocated; grows */
	uint32_t changes;      /* queued */
	struct marker_change change[MARKER_CHANGES_MAX];
	/* Finds a queued change by its key: 1 + number of the change; open addressing. */
	uint16_t index[MARKER_INDEX_SIZE];
	struct flow_key keys[MARKER_CHANGES_MAX]; /* what the system calls take */
	uint32_t labels[MARKER_CHANGES_MAX];
	struct marker_counts counts; /* but for `packets`, which the program counts */
};

/* An interface that is marked. */
struct marker_link {
	char name[16]; /* IFNAMSIZ */
	int ifindex;
	int method;	    /* MARKER_TCX or MARKER_CLSACT */
	int fd;		    /* TCX: the link; owned */
	uint32_t program;   /* clsact: id of our program */
	bool qdisc_is_ours; /* clsact: we made the qdisc */
};

struct marker {
	struct label_bpf *skeleton; /* owned */
	struct marker_link *links;  /* owned */
	uint32_t links_count;
	int cpus;	      /* possible ones */
	uint64_t *cpu_values; /* room for a value of each; owned */
	struct marker_table table;
};

int marker_table_open(struct marker_table *t, int fd, uint64_t *local_ports);
void marker_table_close(struct marker_table *t);

/* Attach `program` and fill in all of *link but its name. 0, or -errno and the reason. */
int marker_link_attach(struct marker_link *link, int program_fd, int method, char *error, size_t error_size);
void marker_link_detach(struct marker_link *link);
bool marker_link_alive(const struct marker_link *link);

/* Is there any filter, of anybody, on the clsact qdisc of an interface? 1, 0 or -errno. */
int marker_netlink_has_filters(int ifindex);

/* Is the qdisc at an interface's ingress handle a clsact one? 1, 0 (another kind, or none) or -errno. */
int marker_netlink_has_clsact(int ifindex);

/* The egress filter of that priority and handle: id of its BPF program, 0 when it has none, -ENOENT
 * when there is no such filter, or -errno. */
int64_t marker_netlink_egress_program(int ifindex, uint32_t priority, uint32_t handle);

#endif
