/* SPDX-License-Identifier: Apache-2.0 */
/* marker_internal.h - what the files of the marker share. Not for others. */
#ifndef MARKER_INTERNAL_H
#define MARKER_INTERNAL_H

#include "marker.h"
#include "marker_pins.h"

struct bpf_object;
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
	uint64_t *flow_filter; /* likewise: by marker_filter_bit() */
	uint32_t *port_flows;  /* marked flows of each local port: 65,536 */
	uint32_t *bit_flows;   /* marked flows of each bit of the filter */
	uint32_t *slot;	       /* each slot of the flow table: print of its key that is in the hash, or 0 */
	uint32_t slots;	       /* allocated; grows */
	uint32_t changes;      /* queued */
	struct marker_change change[MARKER_CHANGES_MAX];
	/* Finds a queued change by its key: 1 + number of the change; open addressing. */
	uint16_t index[MARKER_INDEX_SIZE];
	struct flow_key keys[MARKER_CHANGES_MAX]; /* what the system calls take */
	uint32_t labels[MARKER_CHANGES_MAX];
	struct marker_stale *stale;  /* while taking over: marks that no flow has claimed; owned */
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
	int next_program;   /* taken over, and still with the program of the process before: the
			     * one that follows when all marks are set; else -1. Borrowed */
};

/* Where things are pinned (marker_pins.h). */
struct marker_pins {
	bool on; /* false: nothing is pinned, all other functions do nothing */
	char directory[256];
	unsigned int netns;
};

struct marker {
	struct label_bpf *skeleton; /* owned */
	struct marker_link *links;  /* owned */
	uint32_t links_count;
	int cpus;	      /* possible ones */
	uint64_t *cpu_values; /* room for a value of each; owned */
	struct marker_pins pins;
	bool adopting; /* until marker_settle: what the process before attached stays as it is */
	bool reused;   /* its maps are ours now */
	struct marker_table table;
};

int marker_table_open(struct marker_table *t, int fd, uint64_t *local_ports, uint64_t *flow_filter);
void marker_table_close(struct marker_table *t);

/* The marks of a process before this one (marker_stale.c). */
struct marker_stale;
/* Read those that are in the hash. 0 or -errno. */
int marker_stale_read(struct marker_stale **out, int fd);
/* Is this flow's mark among them, with that label? Then it is not any more. */
bool marker_stale_take(struct marker_stale *s, const struct flow_key *key, uint32_t label);
/* Remove the rest from the hash: how many. */
uint64_t marker_stale_remove(const struct marker_stale *s, int fd);
void marker_stale_free(struct marker_stale *s);
uint32_t marker_key_hash(const struct flow_key *key);

/* Take over the marks that are in the hash already: the process before set them. */
int marker_table_adopt(struct marker_table *t);
/* Remove those that no event has claimed since. */
void marker_table_settle(struct marker_table *t);

/*
 * Attach `program` and fill in all of *link but its name and ifindex. What a process before attached
 * goes on with its program when `keep` is set, until marker_link_renew. 0, or -errno and the reason.
 */
int marker_link_attach(struct marker_link *link, const struct marker_pins *pins, int program_fd, int method,
		       bool keep, char *error, size_t error_size);
/* Give a link that was taken over our program, in place. 0 or -errno. */
int marker_link_renew(struct marker_link *link);
void marker_link_detach(struct marker_link *link, const struct marker_pins *pins);
/* Detach our clsact filter, if one is there. 1 = it was, 0 or -errno. */
int marker_link_detach_filter(int ifindex, bool qdisc_is_ours);
/* What a TCX link is attached to: its interface (0: that is gone) and program. 0, or -errno: no TCX link. */
int marker_link_info(int fd, int *ifindex, uint32_t *program);
/* The program of our filter on an interface, 0 when there is none. */
uint32_t marker_link_filter(int ifindex);
bool marker_link_alive(const struct marker_link *link);

/* Is there any filter, of anybody, on the clsact qdisc of an interface? 1, 0 or -errno. */
int marker_netlink_has_filters(int ifindex);

/* Is the qdisc at an interface's ingress handle a clsact one? 1, 0 (another kind, or none) or -errno. */
int marker_netlink_has_clsact(int ifindex);

/* The egress filter of that priority and handle: id of its BPF program, 0 when it has none, -ENOENT
 * when there is no such filter, or -errno. */
int64_t marker_netlink_egress_program(int ifindex, uint32_t priority, uint32_t handle);

/* -- pins: marker_pins.c -- */

/* Make the directory, and mount /sys/fs/bpf if nobody has. 0, or -errno: logged, and nothing is pinned. */
int marker_pins_open(struct marker_pins *p, const char *directory);

/* The directory, by path or as /proc/self/fd/N (marker_pins_prepare): there, and ours? 0 or -errno. */
int marker_pins_open_directory(const char *directory);
bool marker_pins_is_descriptor(const char *directory);
bool marker_pins_is_bpf_fs(const char *path);

/* Have an object that is not loaded use the pinned maps. True when it does; false when there are
 * none, or (logged) they are of another layout or size. */
bool marker_pins_reuse(const struct marker_pins *p, struct bpf_object *object);

/* Pin the maps of a loaded object, in place of those that are pinned: at no time is one missing. */
void marker_pins_maps(const struct marker_pins *p, const struct bpf_object *object);

/* The pinned TCX link of an interface: the caller's descriptor, or -ENOENT. A dead one is removed. */
int marker_pins_link(const struct marker_pins *p, int ifindex);
void marker_pins_add_link(const struct marker_pins *p, int ifindex, int fd);
void marker_pins_remove_link(const struct marker_pins *p, int ifindex);

/* Do the pins tell of a filter, and did we make its qdisc? */
bool marker_pins_filter(const struct marker_pins *p, int ifindex, bool *qdisc_is_ours);
void marker_pins_add_filter(const struct marker_pins *p, int ifindex, bool qdisc_is_ours);
void marker_pins_remove_filter(const struct marker_pins *p, int ifindex);

/* Detach what is pinned in this network namespace but for the `count` links that are wanted. */
void marker_pins_sweep(const struct marker_pins *p, const struct marker_link *links, uint32_t count);

/* Detach and remove everything. 0 or -errno, as marker_pins_clean. */
int marker_pins_remove(const struct marker_pins *p);

#endif
