/* SPDX-License-Identifier: Apache-2.0 */
/* marker_watch.c - the kernel's word that an interface came or went (rtnetlink(7), RTMGRP_LINK). */
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include "marker.h"

int marker_watch_open(void)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	int r;

	if (fd < 0)
		return -errno;
	if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	r = -errno;
	close(fd);
	return r;
}

bool marker_watch_read(int fd)
{
	char buffer[16384] __attribute__((aligned(NLMSG_ALIGNTO)));
	bool changed = false;

	for (;;) {
		ssize_t got = recv(fd, buffer, sizeof(buffer), 0);

		if (got > 0) {
			/* The group has nothing else than links. */
			changed = true;
		} else if (got < 0 && errno == ENOBUFS) {
			/* Messages were lost: anything may have changed. */
			changed = true;
		} else if (got == 0 || errno != EINTR) {
			return changed;
		}
	}
}

void marker_watch_close(int fd)
{
	close(fd);
}
