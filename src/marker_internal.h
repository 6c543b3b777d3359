/* SPDX-License-Identifier: Apache-2.0 */
/* marker_internal.h - what the files of the marker share. Not for others. */
#ifndef MARKER_INTERNAL_H
#define MARKER_INTERNAL_H

#include "marker.h"
#include "marker_flows.h"
#include "marker_pins.h"

struct bpf_map;
struct bpf_object;
struct label_bpf; /* the skeleton of bpf/label.bpf.c */

/* A change of the table that waits for marker_flush. */
struct marker_change {
	struct flow_key key;
	uint32_t label; /* when `marked` */
	bool was_marked;
	bool marked;
	bool new_flow; /* the one that was marked has ended before */
	bool restart;  /* announced anew: its socket may be another one */
};

enum {
	MARKER_CHANGES_MAX = FLOW_BATCH_MAX,
	MARKER_INDEX_SIZE = 4 * MARKER_CHANGES_MAX, /* a power of two */
	MARKER_TAGS = 1 << 15,			    /* experiment << 6 | activity */
};

#define MARKER_NOWHERE UINT32_MAX

/* The table of marker_flows.h, in our address space. Positions are numbers of entries. */
struct marker_flows {
	void *base; /* mapped */
	size_t size;
	uint64_t *tags;
	struct marker_entry *entries;
	struct marker_rest *rests;
	uint8_t *elsewhere; /* of each entry, how many flows of its own are elsewhere; owned; NULL: only to
			       read */
	uint32_t capacity;
	uint32_t used;	/* entries; not counted by marker_flows_map */
	int64_t factor; /* of the hash */
};

/* What was marked of each experiment's activity: marker_totals.c. */
struct marker_totals {
	/* Pinned with the programs, borrowed: by class; 0 is of those for which none was left. */
	uint16_t *classes; /* experiment << 6 | activity */
	struct marker_count *moved, *counted;
	/* Owned. */
	uint16_t *class_of; /* experiment << 6 | activity to class */
	struct marker_count *seen, *late;
	uint32_t used;	   /* classes up to this number */
	uint32_t at;	   /* of the look that is under way: the next entry */
	uint32_t capacity; /* and the table's */
};

/* The marks, seen from here. */
struct marker_table {
	struct marker_flows flows;
	uint8_t *local_ports; /* the program's bitmap; borrowed, mapped */
	struct marker_totals totals;
	uint32_t *port_flows; /* marked flows of each local port: 65,536 */
	uint8_t *stale;	      /* while taking over: the entries that no flow has claimed; owned */
	uint32_t marks_max;
	uint64_t grow_after_ns; /* not before: the last attempt failed */
	uint32_t changes;	/* queued */
	struct marker_change change[MARKER_CHANGES_MAX];
	/* Finds a queued change by its key: 1 + number of the change; open addressing. */
	uint16_t index[MARKER_INDEX_SIZE];
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
	bool bare;	    /* its packets begin with the IP header */
	bool pending;	    /* taken over, and still with the program of the process before: ours
			     * follows when all marks are set */
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
	uint32_t cpus;		/* possible ones */
	struct marker_cpu *cpu; /* of each; mapped */
	int clock_program;	/* owned */
	bool slow;		/* the kernel does not take label_in_place */
	bool guarded;		/* nor pointers that it does not know beforehand: without CAP_PERFMON */
	bool bare;		/* label_bare is loaded */
	struct marker_pins pins;
	bool adopting; /* until marker_settle: what the process before attached stays as it is */
	bool reused;   /* its maps are ours now */
	struct marker_table table;
};

/* A marker with nothing in it, for marker_close. 0 or -errno. */
int marker_new(struct marker **out);

/* -- the table: marker_flows.c -- */

/* Elements of the array for a capacity, and back (0: none has so many). */
uint32_t marker_flows_elements(uint32_t capacity);
uint32_t marker_flows_capacity(uint32_t elements);
/* Where in it, in octets, the entries begin, and what counts beside them. */
size_t marker_flows_entries(uint32_t capacity);
size_t marker_flows_rests(uint32_t capacity);

int marker_flows_map(struct marker_flows *f, int fd, uint32_t capacity, int64_t factor, bool write);
void marker_flows_unmap(struct marker_flows *f);
uint32_t marker_flows_find(const struct marker_flows *f, const struct flow_key *key);
/* Of a flow that is not there. MARKER_NOWHERE: neither of its buckets has room. */
uint32_t marker_flows_insert(struct marker_flows *f, const struct flow_key *key, uint32_t label);
/* Another label. */
void marker_flows_change(struct marker_flows *f, uint32_t at, uint32_t label);
/* It is another flow's from now on, of which none of these packets are. */
void marker_flows_new_flow(struct marker_flows *f, uint32_t at, struct marker_count counted);
/* The next packet's socket is the flow's. */
void marker_flows_forget_socket(struct marker_flows *f, uint32_t at);
void marker_flows_remove(struct marker_flows *f, uint32_t at);
/* Remove an entry that may be in a place where it does not belong; then marker_flows_recount. */
void marker_flows_discard(struct marker_flows *f, uint32_t at);
/* The key of an entry that has no tag (any more). */
void marker_flows_clear(struct marker_flows *f, uint32_t at);
/* Count anew what is elsewhere. 0 or -ENOMEM. */
int marker_flows_recount(struct marker_flows *f);
uint32_t marker_flows_faults(const struct marker_flows *f);
bool marker_flows_read(const struct marker_flows *f, uint32_t at, struct marker_mark *out);
bool marker_flows_taken(const struct marker_flows *f, uint32_t at);
/* Of a flow that was just removed, too. */
struct marker_count marker_flows_counted(const struct marker_flows *f, uint32_t at);
uint32_t marker_flows_label(const struct marker_flows *f, uint32_t at); /* 0: none */
/* Is a taken entry in its place? */
bool marker_flows_valid(const struct marker_flows *f, uint32_t at);
uint16_t marker_flows_port(const struct marker_flows *f, uint32_t at);
/* Copy an entry but for what it counted; then that, when no program looks into `from` any more. */
uint32_t marker_flows_copy(struct marker_flows *to, const struct marker_flows *from, uint32_t at);
void marker_flows_carry(struct marker_flows *to, uint32_t there, const struct marker_flows *from,
			uint32_t at);

/* -- programs and maps: marker_load.c -- */

/* A capacity for so many marks. */
uint32_t marker_capacity(uint64_t marks);
/* Load the programs, with the pinned maps or new ones (which may be there from marker_load_early), and
 * map those. 0 or -errno. */
int marker_load(struct marker *m, uint32_t marks_max);
/* Load them with new maps, as nearly every first start of a daemon wants them. 0 or -errno. */
int marker_load_early(struct marker *m);
/* Have label_bare too. 0 or -errno. */
int marker_load_bare(struct marker *m);
/* Give the table another capacity: no packet of a marked flow passes unmarked meanwhile. 0 or -errno: then
 * it is as it was. */
int marker_load_larger(struct marker *m, uint32_t capacity);
/* The program for a link. */
int marker_load_program(const struct marker *m, bool bare);
/* Plain packets take the fast way from now on, where there is one. */
void marker_load_writer(const struct marker *m);

/* -- marks: marker_table.c -- */

int marker_table_open(struct marker_table *t, uint32_t marks_max);
void marker_table_close(struct marker_table *t);
/* Take over the marks that are in the table already: the process before set them. */
int marker_table_adopt(struct marker_table *t);
/* Remove those that no event has claimed since. */
void marker_table_settle(struct marker_table *t);
/* -- totals: marker_totals.c -- */

int marker_totals_open(struct marker_totals *t);
void marker_totals_close(struct marker_totals *t);
/* A flow has been removed, or become another, which was at `at`. */
void marker_totals_moved(struct marker_totals *t, uint32_t label, uint32_t at, struct marker_count counted);
/* One is about to have another label. */
void marker_totals_changed(struct marker_totals *t, const struct marker_flows *f, uint32_t at,
			   uint32_t label);
/* Look at the next part of the table. True: that was all of it, time for marker_totals_account(). */
bool marker_totals_look(struct marker_totals *t, const struct marker_flows *f);
/* Was all of it looked at? Then: what has come of a class since the last time, by that look. */
bool marker_totals_known(const struct marker_totals *t, const struct marker_flows *f);
struct marker_count marker_totals_account(struct marker_totals *t, uint32_t class);
/* All that was ever marked, by a look at everything. */
uint64_t marker_totals_packets(const struct marker_totals *t, const struct marker_flows *f);

/*
 * Attach `program` and fill in all of *link but its name, ifindex and `bare`. What a process before attached
 * goes on with its program when `keep` is set, until marker_link_renew. 0, or -errno and the reason.
 */
int marker_link_attach(struct marker_link *link, const struct marker_pins *pins, int program_fd, int method,
		       bool keep, char *error, size_t error_size);
/* A TCX link before all others of an interface: its descriptor, or -errno. */
int marker_link_create(int program_fd, int ifindex);
/* Give a link a program, in place of the one that it has. 0 or -errno. */
int marker_link_renew(struct marker_link *link, int program_fd);
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

/* Make the directory, and mount /sys/fs/bpf if nobody has. 0, or -errno: nothing is pinned. */
int marker_pins_open(struct marker_pins *p, const char *directory);

/* Log what that error means for a marker that goes on. */
void marker_pins_warn(const char *directory, int error);

/* The directory, by path or as /proc/self/fd/N (marker_pins_prepare): there, and ours? 0 or -errno. */
int marker_pins_open_directory(const char *directory);
bool marker_pins_is_descriptor(const char *directory);
bool marker_pins_is_bpf_fs(const char *path);

/* Have an object that is not loaded use the pinned maps. True when it does; false when there are
 * none, or (logged) they are of another layout or size. */
bool marker_pins_reuse(const struct marker_pins *p, struct bpf_object *object);

/* Capacity of the table that a map is, or of the pinned one; 0: it is none, there is none. */
uint32_t marker_pins_capacity_of(int fd);
uint32_t marker_pins_capacity(const struct marker_pins *p);

/* Pin a map in place of the one that is pinned: at no time is it missing. */
void marker_pins_map(const struct marker_pins *p, const struct bpf_map *map);

/* Pin the maps of a loaded object so, and note their layout. */
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
