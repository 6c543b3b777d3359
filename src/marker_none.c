/* SPDX-License-Identifier: Apache-2.0 */
/* marker_none.c - the marker of a binary built with EBPF=0: says so. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "marker.h"

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

int marker_run(const struct marker *m, bool ethernet, struct marker_packet_run *run)
{
	(void)m;
	(void)ethernet;
	(void)run;
	return -EOPNOTSUPP;
}
