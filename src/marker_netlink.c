/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marker_netlink.c - clsact qdiscs and their filters, as the kernel lists them. libbpf asks for one
 * filter at a time, and its answer does not tell "none" from "somebody else's".
 */
#include <errno.h>
#include <linux/netlink.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "marker_internal.h"

/* What is looked for in the answer to a dump. */
struct search {
	int ifindex;
	uint32_t priority;
	uint32_t handle;
	uint32_t program; /* found */
};

/* Is a message of the answer what is looked for? */
typedef bool (*search_test)(const struct nlmsghdr *h, struct search *search);

static int send_dump(int fd, uint16_t type, int ifindex, uint32_t parent)
{
	struct {
		struct nlmsghdr header;
		struct tcmsg message;
	} request = {
		.header = {.nlmsg_len = sizeof(request),
			   .nlmsg_type = type,
			   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
		.message = {.tcm_family = AF_UNSPEC, .tcm_ifindex = ifindex, .tcm_parent = parent},
	};

	return send(fd, &request, sizeof(request), 0) < 0 ? -errno : 0;
}

/* The messages of one datagram: 1 = found, 0 = not, -errno; *last: no datagram follows. */
static int read_messages(const char *buffer, size_t size, struct search *search, search_test test, bool *last)
{
	int found = 0;
	size_t at = 0;

	while (at + sizeof(struct nlmsghdr) <= size) {
		const struct nlmsghdr *h = (const void *)(buffer + at);

		if (h->nlmsg_len < sizeof(*h) || h->nlmsg_len > size - at)
			return -EPROTO;
		*last = h->nlmsg_type == NLMSG_DONE;
		if (*last)
			break;
		if (h->nlmsg_type == NLMSG_ERROR)
			return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
		found |= test(h, search);
		at += NLMSG_ALIGN(h->nlmsg_len);
	}
	return found;
}

/* Ask for all objects of a type, to the end of the answer: 1 = found, 0 = not, -errno. */
static int dump(uint16_t type, uint32_t parent, struct search *search, search_test test)
{
	char buffer[16384] __attribute__((aligned(NLMSG_ALIGNTO)));
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	int found = 0, r = fd < 0 ? -errno : send_dump(fd, type, search->ifindex, parent);
	bool last = false;

	while (r >= 0 && !last) {
		ssize_t got = recv(fd, buffer, sizeof(buffer), 0);

		if (got < 0 && errno == EINTR)
			continue;
		r = got < 0 ? -errno : read_messages(buffer, (size_t)got, search, test, &last);
		found |= r > 0;
	}
	if (fd >= 0)
		close(fd);
	return r < 0 ? r : found;
}

/* An attribute among `left` octets of them; NULL when it is not there. */
static const struct rtattr *find_attribute(const void *from, size_t left, uint16_t type)
{
	const struct rtattr *a = from;

	while (left >= sizeof(*a) && a->rta_len >= sizeof(*a) && a->rta_len <= left) {
		size_t step = RTA_ALIGN(a->rta_len);

		if ((a->rta_type & NLA_TYPE_MASK) == type)
			return a;
		if (step > left)
			break;
		left -= step;
		a = (const void *)((const char *)a + step);
	}
	return NULL;
}

static const struct rtattr *find_in_message(const struct nlmsghdr *h, uint16_t type)
{
	size_t head = NLMSG_LENGTH(NLMSG_ALIGN(sizeof(struct tcmsg)));

	return h->nlmsg_len < head ? NULL : find_attribute((const char *)h + head, h->nlmsg_len - head, type);
}

static bool has_kind(const struct nlmsghdr *h, const char *kind)
{
	const struct rtattr *a = find_in_message(h, TCA_KIND);

	return a && strncmp(RTA_DATA(a), kind, RTA_PAYLOAD(a)) == 0;
}

static bool is_filter(const struct nlmsghdr *h, struct search *search)
{
	(void)search;
	return h->nlmsg_type == RTM_NEWTFILTER;
}

int marker_netlink_has_filters(int ifindex)
{
	struct search search = {.ifindex = ifindex};
	int r = dump(RTM_GETTFILTER, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), &search, is_filter);

	return r != 0 ? r : dump(RTM_GETTFILTER, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS), &search, is_filter);
}

static bool is_clsact(const struct nlmsghdr *h, struct search *search)
{
	const struct tcmsg *t = NLMSG_DATA(h);

	/* The kernel tells of every device's qdiscs. */
	return h->nlmsg_type == RTM_NEWQDISC && t->tcm_ifindex == search->ifindex &&
	       t->tcm_parent == TC_H_CLSACT && has_kind(h, "clsact");
}

int marker_netlink_has_clsact(int ifindex)
{
	struct search search = {.ifindex = ifindex};

	return dump(RTM_GETQDISC, 0, &search, is_clsact);
}

static bool is_wanted_filter(const struct nlmsghdr *h, struct search *search)
{
	const struct tcmsg *t = NLMSG_DATA(h);
	const struct rtattr *options, *id = NULL;

	if (h->nlmsg_type != RTM_NEWTFILTER || TC_H_MAJ(t->tcm_info) >> 16 != search->priority ||
	    t->tcm_handle != search->handle)
		return false;
	options = has_kind(h, "bpf") ? find_in_message(h, TCA_OPTIONS) : NULL;
	if (options)
		id = find_attribute(RTA_DATA(options), RTA_PAYLOAD(options), TCA_BPF_ID);
	if (id && RTA_PAYLOAD(id) >= sizeof(search->program))
		memcpy(&search->program, RTA_DATA(id), sizeof(search->program));
	return true;
}

int64_t marker_netlink_egress_program(int ifindex, uint32_t priority, uint32_t handle)
{
	struct search search = {.ifindex = ifindex, .priority = priority, .handle = handle};
	int r = dump(RTM_GETTFILTER, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS), &search, is_wanted_filter);

	if (r == 0)
		return -ENOENT;
	return r < 0 ? r : (int64_t)search.program;
}
