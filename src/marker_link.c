/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marker_link.c - a program at the egress of one interface, beside the programs, filters and
 * qdiscs of others: by a TCX link or, before Linux 6.6, by a filter on the clsact qdisc.
 *
 * We go first. A program before ours that accepts a packet would end its way through the
 * programs, and it would leave unmarked; ours always passes it on. Addresses that a later one
 * rewrites are still those of the flow.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "marker_early.h"
#include "marker_internal.h"

enum {
	LINK_TYPE_TCX = 11,    /* BPF_LINK_TYPE_TCX, and */
	TCX_EGRESS = 47,       /* BPF_TCX_EGRESS: newer than libbpf 1.1's headers */
	LINK_BEFORE = 1 << 3,  /* BPF_F_BEFORE; relative to nothing: before all */
	KERNEL_ENOTSUPP = 524, /* the kernel's own errno, without a name here */
	FILTER_PRIORITY = 3,   /* early, and seldom anyone's choice */
	FILTER_HANDLE = 0xF10D,
};

int marker_link_info(int fd, int *ifindex, uint32_t *program)
{
	struct bpf_link_info info = {0};
	uint32_t size = sizeof(info);
	int r = bpf_obj_get_info_by_fd(fd, &info, &size);

	if (r < 0)
		return r;
	if (info.type != LINK_TYPE_TCX)
		return -EINVAL;
	/* struct tcx begins as struct xdp does, and is newer than libbpf 1.1's headers. */
	*ifindex = (int)info.xdp.ifindex;
	*program = info.prog_id;
	return 0;
}

/* Take over the link that a process before this one left. */
static bool adopt_tcx(struct marker_link *link, const struct marker_pins *pins, int program_fd, bool keep)
{
	int fd = marker_pins_link(pins, link->ifindex);

	if (fd < 0)
		return false;
	link->fd = fd;
	link->method = MARKER_TCX;
	link->pending = true;
	if (keep || marker_link_renew(link, program_fd) == 0)
		return true;
	close(fd);
	marker_pins_remove_link(pins, link->ifindex);
	return false;
}

int marker_link_create(int program_fd, int ifindex)
{
	struct bpf_link_create_opts opts = {.sz = sizeof(opts), .flags = LINK_BEFORE};

	return bpf_link_create(program_fd, ifindex, (enum bpf_attach_type)TCX_EGRESS, &opts);
}

/* The link that was made early, when there is one. */
static int take_early(int program_fd, int ifindex)
{
	int fd = marker_early_link(ifindex);

	if (fd >= 0 && bpf_link_update(fd, program_fd, NULL) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int attach_tcx(struct marker_link *link, const struct marker_pins *pins, int program_fd, bool keep)
{
	int fd;

	if (adopt_tcx(link, pins, program_fd, keep))
		return 0;
	fd = take_early(program_fd, link->ifindex);
	if (fd < 0)
		fd = marker_link_create(program_fd, link->ifindex);
	if (fd < 0)
		return fd;
	link->fd = fd;
	link->method = MARKER_TCX;
	link->pending = false;
	marker_pins_add_link(pins, link->ifindex, fd);
	return 0;
}

/* The filter with our priority and handle: the id of its program (0: it has none), or -errno:
 * -ENOENT when there is no such filter. */
static int64_t filter_program(int ifindex)
{
	return marker_netlink_egress_program(ifindex, FILTER_PRIORITY, FILTER_HANDLE);
}

/* Is it one of ours, left by a daemon that was killed? */
static bool program_is_ours(uint32_t id)
{
	struct bpf_prog_info info = {0};
	uint32_t size = sizeof(info);
	int fd = bpf_prog_get_fd_by_id(id);
	int r;

	if (fd < 0)
		return false;
	r = bpf_obj_get_info_by_fd(fd, &info, &size);
	close(fd);
	return r == 0 && (strcmp(info.name, "label_ethernet") == 0 || strcmp(info.name, "label_bare") == 0);
}

static void remove_qdisc(int ifindex)
{
	struct bpf_tc_hook hook = {
		.sz = sizeof(hook), .ifindex = ifindex, .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS};

	/* What others have put there meanwhile would go with it. */
	if (marker_netlink_has_filters(ifindex) == 0)
		bpf_tc_hook_destroy(&hook);
}

/* Make the clsact qdisc, or find one. 1 = made, 0 = found, -errno and the reason. */
static int need_qdisc(int ifindex, char *error, size_t error_size)
{
	struct bpf_tc_hook hook = {.sz = sizeof(hook), .ifindex = ifindex, .attach_point = BPF_TC_EGRESS};
	int r = bpf_tc_hook_create(&hook);

	if (r == 0)
		return 1;
	if (r == -EEXIST)
		r = marker_netlink_has_clsact(ifindex);
	if (r > 0)
		return 0;
	if (r == 0) {
		/* It would take a filter for egress, and run it at ingress. */
		snprintf(error, error_size, "an ingress qdisc is in the place of clsact");
		return -EBUSY;
	}
	snprintf(error, error_size, "cannot make a clsact qdisc: %s", strerror(-r));
	return r;
}

uint32_t marker_link_filter(int ifindex)
{
	int64_t id = filter_program(ifindex);

	return id > 0 && program_is_ours((uint32_t)id) ? (uint32_t)id : 0;
}

/* Put a filter with our priority and handle, in the place of one that we had there. */
static int put_filter(struct marker_link *link, int program_fd)
{
	struct bpf_tc_hook hook = {
		.sz = sizeof(hook), .ifindex = link->ifindex, .attach_point = BPF_TC_EGRESS};
	struct bpf_tc_opts opts = {.sz = sizeof(opts),
				   .prog_fd = program_fd,
				   .handle = FILTER_HANDLE,
				   .priority = FILTER_PRIORITY,
				   .flags = BPF_TC_F_REPLACE};
	int r = bpf_tc_attach(&hook, &opts);

	if (r == 0)
		link->program = opts.prog_id;
	return r;
}

static int attach_filter(struct marker_link *link, const struct marker_pins *pins, int program_fd, bool keep,
			 char *error, size_t error_size)
{
	int r = need_qdisc(link->ifindex, error, error_size);
	bool was_ours;
	int64_t there;

	if (r < 0)
		return r;
	marker_pins_filter(pins, link->ifindex, &was_ours);
	link->qdisc_is_ours = r == 1 || was_ours;
	there = filter_program(link->ifindex);
	if (there != -ENOENT && !(there > 0 && program_is_ours((uint32_t)there))) {
		snprintf(error, error_size,
			 "clsact filter with priority %d and handle %#x: another's is there", FILTER_PRIORITY,
			 FILTER_HANDLE);
		return -EBUSY;
	}
	link->method = MARKER_CLSACT;
	marker_pins_add_filter(pins, link->ifindex, link->qdisc_is_ours);
	if (keep && there > 0) {
		link->program = (uint32_t)there;
		link->pending = true;
		return 0;
	}
	link->pending = false;
	r = put_filter(link, program_fd);
	if (r == 0)
		return 0;
	snprintf(error, error_size, "clsact filter with priority %d: %s", FILTER_PRIORITY, strerror(-r));
	marker_pins_remove_filter(pins, link->ifindex);
	if (link->qdisc_is_ours)
		remove_qdisc(link->ifindex);
	return r;
}

int marker_link_renew(struct marker_link *link, int program_fd)
{
	int r;

	if (link->method == MARKER_TCX)
		r = bpf_link_update(link->fd, program_fd, NULL);
	else
		r = put_filter(link, program_fd);
	if (r == 0)
		link->pending = false;
	return r;
}

int marker_link_attach(struct marker_link *link, const struct marker_pins *pins, int program_fd, int method,
		       bool keep, char *error, size_t error_size)
{
	int used = snprintf(error, error_size, "interface %s: ", link->name);
	int r;

	if (method != MARKER_CLSACT) {
		r = attach_tcx(link, pins, program_fd, keep);
		if (r == 0)
			return 0;
		if (method == MARKER_TCX || (r != -EINVAL && r != -EOPNOTSUPP && r != -KERNEL_ENOTSUPP)) {
			snprintf(error + used, error_size - (size_t)used, "TCX: %s%s", strerror(-r),
				 r == -EINVAL ? " (it takes Linux 6.6 or later)" : "");
			return r;
		}
	}
	return attach_filter(link, pins, program_fd, keep, error + used, error_size - (size_t)used);
}

int marker_link_detach_filter(int ifindex, bool qdisc_is_ours)
{
	struct bpf_tc_hook hook = {.sz = sizeof(hook), .ifindex = ifindex, .attach_point = BPF_TC_EGRESS};
	struct bpf_tc_opts opts = {.sz = sizeof(opts), .handle = FILTER_HANDLE, .priority = FILTER_PRIORITY};
	int r;

	if (marker_link_filter(ifindex) == 0)
		return 0;
	r = bpf_tc_detach(&hook, &opts);
	if (r == 0 && qdisc_is_ours)
		remove_qdisc(ifindex);
	return r == 0 ? 1 : r;
}

void marker_link_detach(struct marker_link *link, const struct marker_pins *pins)
{
	if (link->method == MARKER_TCX) {
		/* Another process may have it open. */
		bpf_link_detach(link->fd);
		close(link->fd);
		marker_pins_remove_link(pins, link->ifindex);
		return;
	}
	marker_pins_remove_filter(pins, link->ifindex);
	/* Gone already, with a qdisc that may have been made anew by someone else since? */
	if (filter_program(link->ifindex) == (int64_t)link->program)
		marker_link_detach_filter(link->ifindex, link->qdisc_is_ours);
}

bool marker_link_alive(const struct marker_link *link)
{
	uint32_t program;
	int at;

	if ((int)if_nametoindex(link->name) != link->ifindex)
		return false;
	if (link->method == MARKER_CLSACT)
		return filter_program(link->ifindex) == (int64_t)link->program;
	return marker_link_info(link->fd, &at, &program) < 0 || at == link->ifindex;
}
