/* SPDX-License-Identifier: Apache-2.0 */
/* marker_netlink.c - what libbpf does not ask the kernel: which filters a clsact qdisc has. */
#include <errno.h>
#include <linux/netlink.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "marker_internal.h"

static int send_dump(int fd, int ifindex, uint32_t parent)
{
	struct {
		struct nlmsghdr header;
		struct tcmsg message;
	} request = {
		.header = {.nlmsg_len = sizeof(request),
			   .nlmsg_type = RTM_GETTFILTER,
			   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
		.message = {.tcm_family = AF_UNSPEC, .tcm_ifindex = ifindex, .tcm_parent = parent},
	};

	return send(fd, &request, sizeof(request), 0) < 0 ? -errno : 0;
}

/* One message of the answer: 1 = a filter, 0 = something else, -errno; *last: no more follow. */
static int read_message(const struct nlmsghdr *h, bool *last)
{
	*last = h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR;
	if (h->nlmsg_type == NLMSG_ERROR)
		return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
	return h->nlmsg_type == RTM_NEWTFILTER;
}

/* Is there a filter in the answer to a dump? 1, 0 or -errno. Reads it to its end. */
static int receive_dump(int fd)
{
	char buffer[16384] __attribute__((aligned(NLMSG_ALIGNTO)));
	int found = 0;

	for (;;) {
		ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
		size_t at = 0;

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EPROTO;
		while (at + sizeof(struct nlmsghdr) <= (size_t)got) {
			const struct nlmsghdr *h = (const void *)(buffer + at);
			bool last;
			int r = read_message(h, &last);

			if (r < 0)
				return r;
			found |= r;
			if (last)
				return found;
			at += NLMSG_ALIGN(h->nlmsg_len);
		}
	}
}

int marker_netlink_has_filters(int ifindex)
{
	static const uint32_t parents[] = {
		TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS),
		TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS),
	};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	int r = fd < 0 ? -errno : 0;

	for (int i = 0; i < 2 && r == 0; i++) {
		r = send_dump(fd, ifindex, parents[i]);
		if (r == 0)
			r = receive_dump(fd);
	}
	if (fd >= 0)
		close(fd);
	return r;
}
