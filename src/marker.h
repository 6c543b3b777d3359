/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marker.h - flow labels on the packets of open flows: a BPF program at the egress of
 * interfaces, and the table of labels that it looks into.
 *
 * IPv6, TCP and UDP, by the full 5-tuple. Packets are never dropped and never changed but for
 * the label. Programs and tables can be pinned (marker_open_pinned): marking then goes on when
 * this process ends without marker_close, and the next one takes over without a gap. Else
 * TCX links and tables are gone with the process; clsact filters (kernels before 6.6) are removed
 * by marker_close, and replaced by the next start if that could not run.
 *
 * marker_none.c has the same functions for binaries built with EBPF=0.
 */
#ifndef MARKER_H
#define MARKER_H

#include "flow_event.h"
#include "ffi_export.h"

struct marker;

enum marker_method {
	MARKER_AUTO,   /* TCX where the kernel has it (6.6 and later), else clsact */
	MARKER_TCX,    /* a link at the head of the interface's egress programs */
	MARKER_CLSACT, /* a filter with fixed priority and handle on the clsact qdisc */
};

/* Flows that could not be marked, by reason. */
enum marker_refusal {
	MARKER_REFUSED_FULL,   /* as many marks as marks_max */
	MARKER_REFUSED_MEMORY, /* the kernel had none */
	MARKER_REFUSED_OTHER,  /* logged with the kernel's reason */
	MARKER_REFUSALS,
};

struct marker_counts {
	uint64_t packets[10]; /* by enum marker_packet, all CPUs */
	uint64_t open;	      /* marks that are in the table now */
	uint64_t added;
	uint64_t changed; /* new label for an open flow */
	uint64_t removed;
	uint64_t ipv4;	     /* flows that have no flow label */
	uint64_t refused[3]; /* by enum marker_refusal */
};

/*
 * Load the programs and make the table, for at most marks_max marks. Nothing is attached yet.
 * NULL on failure: `error` says why. The caller owns the result.
 */
FFI_EXPORT struct marker *marker_open(uint32_t marks_max, char *error, size_t error_size);

/*
 * The same, with tables and links pinned in `directory` of a BPF file system (marker_pins.h), where
 * the next process finds them. What an earlier process left there is taken over: its tables when they
 * are of this layout, its links and filters in any case. They go on with its program and
 * marks until marker_settle. Where nothing can be pinned a log line says so, and the rest works.
 */
FFI_EXPORT struct marker *marker_open_pinned(uint32_t marks_max, const char *directory, char *error,
					     size_t error_size);

/*
 * After marker_open_pinned, marker_attach for all interfaces, and all open flows queued (again): marks
 * of other flows are removed, then our program follows in what was attached, in place. Interfaces that
 * the earlier process marked and we do not are let go.
 */
FFI_EXPORT void marker_settle(struct marker *m);

/* Were the tables of an earlier process taken over? */
FFI_EXPORT bool marker_adopted(const struct marker *m);

/*
 * The lease: marking ends by itself when this is not called again within so many seconds, at most
 * 2^31, and goes on when it is, in the next process too. 0: it does not end. A clock of the
 * kernel's ticks is compared, so it is right to some hundredths of a second. 0 or -errno.
 */
FFI_EXPORT int marker_lease(struct marker *m, uint32_t seconds);

/* Tell of interfaces that come and go: a descriptor that becomes readable when links change, or
 * -errno. marker_watch_read takes what has come: true when an interface has come, gone or changed. */
FFI_EXPORT int marker_watch_open(void);
FFI_EXPORT bool marker_watch_read(int fd);
FFI_EXPORT void marker_watch_close(int fd);

/* Detach from every interface, remove everything that is ours. NULL is fine. */
FFI_EXPORT void marker_close(struct marker *m);

/*
 * Mark what leaves an interface of this network namespace. `method` is an enum
 * marker_method. 0, or -errno and the reason in `error`, which names the interface. -EEXIST:
 * attached already. A program, filter or qdisc of others is never changed or removed.
 */
FFI_EXPORT int marker_attach(struct marker *m, const char *interface, int method, char *error,
			     size_t error_size);

/* Undo marker_attach. 0, or -ENOENT when it is not attached. */
FFI_EXPORT int marker_detach(struct marker *m, const char *interface);

/* Have an attached interface marked by another method: by both for a moment, never by none. 0 also when that
 * is its method; or as marker_attach(), and then all is as before. -ENOENT when it is not attached. */
FFI_EXPORT int marker_reattach(struct marker *m, const char *interface, int method, char *error,
			       size_t error_size);

/* How an interface is marked: MARKER_TCX or MARKER_CLSACT; -ENOENT when it is not, or when
 * the interface or the filter has vanished (or another one has got the name) since. */
FFI_EXPORT int marker_attached(const struct marker *m, const char *interface);

/*
 * Take over what events mean for the marks: of the delivered ones (EVENT_DELIVER), those
 * routed here are marked on start and ongoing and unmarked on end; a flow whose route no longer
 * leads here is unmarked. Takes effect with marker_flush; if more piles up than fits a batch,
 * earlier ones take effect at once.
 */
FFI_EXPORT void marker_queue(struct marker *m, const struct flow_event *events, uint32_t count,
			     uint32_t route_bit);

/* Bring queued marks into the table: no system call, unless the table must grow. */
FFI_EXPORT void marker_flush(struct marker *m);

/* What happened so far. */
FFI_EXPORT void marker_counts(const struct marker *m, struct marker_counts *out);

/* What was marked of an experiment's activity. */
struct marker_class {
	uint16_t experiment; /* 0: flows of those beyond the first 1,023 pairs */
	uint16_t activity;
	uint32_t spare;
	uint64_t packets; /* on the wire */
	uint64_t octets;  /* from the IPv6 headers on */
};

enum { MARKER_CLASSES_MAX = 1024 };

/* Look at the next part of the table for what its flows have counted. True: that was all of it, and
 * marker_account knows. A part takes less than a millisecond. */
FFI_EXPORT bool marker_look(struct marker *m);

/*
 * As marker_counts, but `packets` are only those that this was not asked about before, by whatever
 * process: what marked while none ran is among them. So are what it writes to `classes`, room for
 * MARKER_CLASSES_MAX: how many.
 */
FFI_EXPORT uint32_t marker_account(struct marker *m, struct marker_counts *out, struct marker_class *classes);

/* What the program knows of a flow that is marked. */
struct marker_usage {
	uint64_t packets; /* marked ones, on the wire */
	uint64_t octets;  /* of those, from the IPv6 headers on */
	uint64_t cookie;  /* of the TCP socket that sends them; 0: no packet was seen, or none from a socket
			     here */
};

/* 0, or -ENOENT: the flow is not marked. */
FFI_EXPORT int marker_flow_usage(const struct marker *m, const struct flow_key *key,
				 struct marker_usage *out);

/* Of ends that tell of no octets: those sent by marked flows for which nothing else knows them, UDP
 * and what is forwarded (bytes_sent, EVENT_HAS_SENT). */
FFI_EXPORT void marker_fill_usage(const struct marker *m, struct flow_event *events, uint32_t count);

/* For tests: entries of the table that are out of their place, and buckets that do not tell how many of
 * theirs are elsewhere. */
FFI_EXPORT uint32_t marker_faults(const struct marker *m);

/* Memory of the kernel's that the table takes, in octets, and for how many flows it has room. */
FFI_EXPORT uint64_t marker_memory(const struct marker *m);
FFI_EXPORT uint32_t marker_room(const struct marker *m);

/* A packet for marker_run, and what became of it. */
struct marker_packet_run {
	const void *packet;
	uint32_t length;
	uint32_t repeat; /* times; 0 is 1 */
	void *out;	 /* at least `length` octets */
	uint32_t out_length;
	int32_t verdict;      /* -1: next program */
	uint32_t duration_ns; /* of one run, on average */
};

/* The next TCP packet's socket is the flow's, of every flow. For tests: each run has a socket of its own. */
FFI_EXPORT void marker_forget_sockets(struct marker *m);

/*
 * Run the program on a packet, without any interface (BPF_PROG_TEST_RUN); ethernet: it begins
 * with an Ethernet header. For tests and benchmarks. 0 or -errno: -EINVAL for packets shorter
 * than the kernel takes.
 */
FFI_EXPORT int marker_run(struct marker *m, bool ethernet, struct marker_packet_run *run);

#endif
