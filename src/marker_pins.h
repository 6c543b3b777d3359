/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marker_pins.h - what of the marker outlives the process: maps and links pinned in a
 * directory of a BPF file system, so that marking goes on when the daemon is killed.
 *
 *   layout               symbolic link: number of the layout of the maps (MARKER_PINS_LAYOUT)
 *   map_NAME             a map of the marking program
 *   link_NETNS_IFINDEX   a TCX link; network namespace by its inode number
 *   filter_NETNS_IFINDEX symbolic link: there is a clsact filter of ours ("found"), whose qdisc
 *                        we made too ("made"). Filters outlive us by themselves
 *
 * The directory is ours alone, 0700. Things of other names in it are never touched.
 */
#ifndef MARKER_PINS_H
#define MARKER_PINS_H

#include <stdbool.h>
#include "flow_event.h"
#include "ffi_export.h"

enum {
	/* Raise with every change of what a map of the program holds. Sizes are compared anyway. */
	MARKER_PINS_LAYOUT = 7,
	MARKER_PINS_PATH_SIZE = 576,
};

/*
 * As root, for a daemon that becomes that user: make the directory, mount /sys/fs/bpf if nobody has, give
 * the directory and what a daemon of root's left in it to the user. Returns a descriptor of it, the
 * caller's, or -errno. "/proc/self/fd/DESCRIPTOR" serves as the directory where the way to it is barred
 * (a BPF file system is often mounted 0700); then the directory itself, empty, outlives marker_close.
 */
FFI_EXPORT int marker_pins_prepare(const char *directory, uint32_t uid, uint32_t gid);

/* An interface that the pins tell of. */
struct marker_pin {
	char name[16]; /* of the interface; "" when it is gone or in another network namespace */
	int32_t ifindex;
	int32_t method;	  /* enum marker_method: MARKER_TCX or MARKER_CLSACT */
	uint32_t program; /* its id; 0 when nothing is attached any more */
	bool here;	  /* in this network namespace */
};

/* List what is pinned in a directory: at most `max`. How many there are, or -errno (-ENOENT: no such
 * directory). */
FFI_EXPORT int marker_pins_list(const char *directory, struct marker_pin *out, uint32_t max);

/*
 * Detach and remove everything of ours in a directory, whoever pinned it, then the directory. 0;
 * -ENOENT when there is no such directory, -ENOTEMPTY when something else in it is left.
 */
FFI_EXPORT int marker_pins_clean(const char *directory);

/* Remove the clsact filters with our handle and program from all interfaces of this network
 * namespace: for those that no pin tells of. How many, or -errno. */
FFI_EXPORT int marker_filters_clean(void);

/* A mark in a table that is pinned. */
struct marker_mark {
	struct flow_key key;
	uint32_t label;
	uint32_t spare;
	uint64_t packets; /* marked ones, on the wire */
	uint64_t octets;  /* of those, from the IPv6 headers on */
	uint64_t cookie;  /* of the TCP socket that sends them; 0: unknown */
};

struct marker_marks;

/* Read the marks that are pinned in a directory. NULL: there are none. The caller closes it. */
FFI_EXPORT struct marker_marks *marker_marks_open(const char *directory);
/* The next marks, at most `max`: how many, 0 at the end, or -errno. */
FFI_EXPORT int marker_marks_read(struct marker_marks *marks, struct marker_mark *out, uint32_t max);
FFI_EXPORT void marker_marks_close(struct marker_marks *marks);

#endif
