/* SPDX-License-Identifier: Apache-2.0 */
/* marker_none.c - the marker of a binary built with EBPF=0: says so. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "marker.h"
#include "marker_early.h"
#include "marker_kernel.h"
#include "marker_pins.h"

static const char reason[] = "this binary was built without eBPF (make EBPF=0): it cannot mark packets";

struct marker *marker_open(uint32_t marks_max, char *error, size_t error_size)
{
	(void)marks_max;
	snprintf(error, error_size, "%s", reason);
	return NULL;
}

/* Without a marker none of these is called. */

void marker_close(struct marker *m)
{
	(void)m;
}

int marker_attach(struct marker *m, const char *interface, int method, char *error, size_t error_size)
{
	(void)m;
	(void)interface;
	(void)method;
	snprintf(error, error_size, "%s", reason);
	return -EOPNOTSUPP;
}

int marker_detach(struct marker *m, const char *interface)
{
	(void)m;
	(void)interface;
	return -ENOENT;
}

int marker_reattach(struct marker *m, const char *interface, int method, char *error, size_t error_size)
{
	(void)method;
	(void)error;
	(void)error_size;
	return marker_detach(m, interface);
}

int marker_attached(const struct marker *m, const char *interface)
{
	(void)m;
	(void)interface;
	return -ENOENT;
}

void marker_queue(struct marker *m, const struct flow_event *events, uint32_t count, uint32_t route_bit)
{
	(void)m;
	(void)events;
	(void)count;
	(void)route_bit;
}

void marker_flush(struct marker *m)
{
	(void)m;
}

void marker_counts(const struct marker *m, struct marker_counts *out)
{
	(void)m;
	memset(out, 0, sizeof(*out));
}

void marker_forget_sockets(struct marker *m)
{
	(void)m;
}

uint32_t marker_faults(const struct marker *m)
{
	(void)m;
	return 0;
}

int marker_run(struct marker *m, bool ethernet, struct marker_packet_run *run)
{
	(void)m;
	(void)ethernet;
	(void)run;
	return -EOPNOTSUPP;
}

struct marker *marker_open_pinned(uint32_t marks_max, const char *directory, char *error, size_t error_size)
{
	(void)directory;
	return marker_open(marks_max, error, error_size);
}

void marker_settle(struct marker *m)
{
	(void)m;
}

bool marker_adopted(const struct marker *m)
{
	(void)m;
	return false;
}

bool marker_look(struct marker *m)
{
	(void)m;
	return true;
}

uint32_t marker_account(struct marker *m, struct marker_counts *out, struct marker_class *classes)
{
	(void)classes;
	marker_counts(m, out);
	return 0;
}

int marker_lease(struct marker *m, uint32_t seconds)
{
	(void)m;
	(void)seconds;
	return -EOPNOTSUPP;
}

int marker_flow_usage(const struct marker *m, const struct flow_key *key, struct marker_usage *out)
{
	(void)m;
	(void)key;
	(void)out;
	return -ENOENT;
}

void marker_fill_usage(const struct marker *m, struct flow_event *events, uint32_t count)
{
	(void)m;
	(void)events;
	(void)count;
}

uint64_t marker_memory(const struct marker *m)
{
	(void)m;
	return 0;
}

uint32_t marker_room(const struct marker *m)
{
	(void)m;
	return 0;
}

int marker_watch_open(void)
{
	return -EOPNOTSUPP;
}

bool marker_watch_read(int fd)
{
	(void)fd;
	return false;
}

void marker_watch_close(int fd)
{
	(void)fd;
}

int marker_pins_prepare(const char *directory, uint32_t uid, uint32_t gid)
{
	(void)directory;
	(void)uid;
	(void)gid;
	return -ENOSYS;
}

int marker_pins_list(const char *directory, struct marker_pin *out, uint32_t max)
{
	(void)directory;
	(void)out;
	(void)max;
	return -ENOENT;
}

int marker_pins_clean(const char *directory)
{
	(void)directory;
	return -ENOENT;
}

int marker_filters_clean(void)
{
	return 0;
}

struct marker_marks *marker_marks_open(const char *directory)
{
	(void)directory;
	return NULL;
}

int marker_marks_read(struct marker_marks *marks, struct marker_mark *out, uint32_t max)
{
	(void)marks;
	(void)out;
	(void)max;
	return 0;
}

void marker_marks_close(struct marker_marks *marks)
{
	(void)marks;
}

int marker_kernel_read(const char *path, struct marker_kernel *out)
{
	(void)path;
	(void)out;
	return -ENOTSUP;
}

void marker_early_start(void)
{
}

void marker_early_attach(const char *directory, const char *interfaces)
{
	(void)directory;
	(void)interfaces;
}

void marker_early_wait(void)
{
}

void marker_early_end(void)
{
}
