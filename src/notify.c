/* SPDX-License-Identifier: Apache-2.0 */
#include "notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int send_with(const char *text, int fd_to_store)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct iovec iov = {.iov_base = (void *)text, .iov_len = strlen(text)};
	union {
		char buffer[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct msghdr message = {
		.msg_name = &address,
		.msg_iov = &iov,
		.msg_iovlen = 1,
	};
	ssize_t n;
	int fd, status;

	if (!path || !*path)
		return 0;
	/* '@' stands for the NUL that begins an abstract name. */
	if ((path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(address.sun_path))
		return -EINVAL;
	memcpy(address.sun_path, path, strlen(path));
	if (address.sun_path[0] == '@')
		address.sun_path[0] = '\0';
	message.msg_namelen = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));

	if (fd_to_store >= 0) {
		struct cmsghdr *header;

		memset(&control, 0, sizeof(control));
		message.msg_control = control.buffer;
		message.msg_controllen = sizeof(control.buffer);
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &fd_to_store, sizeof(int));
	}

	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	n = sendmsg(fd, &message, MSG_NOSIGNAL);
	status = n < 0 ? -errno : 1;
	close(fd);
	return status;
}

int notify_send(const char *assignments)
{
	return send_with(assignments, -1);
}

static bool name_is_valid(const char *name)
{
	size_t length = strlen(name);

	for (const char *p = name; *p; p++) {
		if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f || *p == ':')
			return false;
	}
	return length > 0 && length <= 255;
}

int notify_store(const char *name, int fd)
{
	char text[512];

	if (!name_is_valid(name) || fd < 0)
		return -EINVAL;
	/* FDPOLL=0: the manager must not drop a FIFO because its last writer left. */
	snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s\nFDPOLL=0", name);
	return send_with(text, fd);
}

int notify_unstore(const char *name)
{
	char text[512];

	if (!name_is_valid(name))
		return -EINVAL;
	snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%s", name);
	return send_with(text, -1);
}

uint64_t notify_watchdog_us(void)
{
	const char *pid = getenv("WATCHDOG_PID");
	const char *interval = getenv("WATCHDOG_USEC");

	if (!interval || (pid && atol(pid) != (long)getpid()))
		return 0;
	return strtoull(interval, NULL, 10);
}
