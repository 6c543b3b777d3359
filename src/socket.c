/* SPDX-License-Identifier: Apache-2.0 */
#include "socket.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "udp_send.h"

static int open_socket(int family, int type)
{
	int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	return fd < 0 ? -errno : fd;
}

/* Returns fd, or closes it and returns -errno. */
static int give(int fd, bool ok)
{
	int err = errno;

	if (ok)
		return fd;
	close(fd);
	return -err;
}

static int bind_to(const struct flow_address *address, uint16_t port, int type)
{
	static const int on = 1, off = 0;
	struct sockaddr_storage to;
	socklen_t length = udp_send_address(&to, address, port);
	int fd = open_socket(to.ss_family, type);

	if (fd < 0)
		return fd;
	if (type == SOCK_STREAM)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (to.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	return give(fd, bind(fd, (struct sockaddr *)&to, length) == 0);
}

int socket_listen(const struct flow_address *address, uint16_t port, int backlog)
{
	int fd = bind_to(address, port, SOCK_STREAM);

	return fd < 0 ? fd : give(fd, listen(fd, backlog) == 0);
}

int socket_udp(const struct flow_address *address, uint16_t port)
{
	static const int on = 1;
	int fd = bind_to(address, port, SOCK_DGRAM);

	/* What the kernel had to drop comes along with what it did not. */
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof(on));
	return fd;
}

int socket_connect(int fd, const struct flow_address *address, uint16_t port)
{
	struct sockaddr_storage to;
	socklen_t length = udp_send_address(&to, address, port);

	return connect(fd, (struct sockaddr *)&to, length) == 0 ? 0 : -errno;
}

/* Any family's address and port. */
static void read_address(const struct sockaddr_storage *from, struct flow_address *address, uint16_t *port)
{
	memset(address, 0, sizeof(*address));
	*port = 0;
	if (from->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)from;

		memset(address->octet + 10, 0xff, 2);
		memcpy(address->octet + 12, &in->sin_addr, 4);
		*port = ntohs(in->sin_port);
	} else if (from->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)from;

		memcpy(address->octet, &in6->sin6_addr, 16);
		*port = ntohs(in6->sin6_port);
	}
}

int socket_port(int fd)
{
	struct sockaddr_storage name;
	socklen_t length = sizeof(name);
	struct flow_address address;
	uint16_t port;

	if (getsockname(fd, (struct sockaddr *)&name, &length) != 0)
		return -errno;
	read_address(&name, &address, &port);
	return port;
}

int socket_accept(int fd, struct flow_address *peer, uint16_t *port)
{
	struct sockaddr_storage from;
	socklen_t length = sizeof(from);
	int accepted;

	memset(&from, 0, sizeof(from));
	do
		accepted = accept4(fd, (struct sockaddr *)&from, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
	while (accepted < 0 && (errno == EINTR || errno == ECONNABORTED));
	if (accepted < 0)
		return -errno;
	read_address(&from, peer, port);
	return accepted;
}

/* Does anybody listen at the path? 0: no, and it may be removed. */
static int examine(const struct sockaddr_un *at, int type)
{
	struct stat st;
	int fd, err;

	if (lstat(at->sun_path, &st) != 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = open_socket(AF_UNIX, type);
	if (fd < 0)
		return fd;
	err = connect(fd, (const struct sockaddr *)at, sizeof(*at)) == 0 ? 0 : errno;
	close(fd);
	if (err != ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(at->sun_path) == 0 ? 0 : -errno;
}

/* Bind so that nobody gets in before the mode is set. */
static int bind_unix(int fd, const struct sockaddr_un *at, uint32_t mode, uint32_t uid, uint32_t gid,
		     struct socket_path *made)
{
	mode_t mask = umask(0777);
	int status = bind(fd, (const struct sockaddr *)at, sizeof(*at));
	int err = errno;
	struct stat st;

	umask(mask);
	if (status != 0)
		return -err;
	if (lstat(at->sun_path, &st) != 0)
		return -errno;
	made->device = st.st_dev;
	made->inode = st.st_ino;
	if (lchown(at->sun_path, uid, gid) == 0 && chmod(at->sun_path, mode) == 0)
		return 0;
	err = errno;
	unlink(at->sun_path);
	return -err;
}

int socket_unix(const char *path, bool datagrams, uint32_t mode, uint32_t uid, uint32_t gid, int backlog,
		struct socket_path *made)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int type = datagrams ? SOCK_DGRAM : SOCK_STREAM;
	int fd, status;

	if (!path[0])
		return -EINVAL;
	if (strlen(path) >= sizeof(at.sun_path))
		return -ENAMETOOLONG;
	strcpy(at.sun_path, path);
	status = examine(&at, type);
	if (status != 0)
		return status;
	fd = open_socket(AF_UNIX, type);
	if (fd < 0)
		return fd;
	status = bind_unix(fd, &at, mode, uid, gid, made);
	if (status == 0 && !datagrams && listen(fd, backlog) != 0) {
		status = -errno;
		unlink(path);
	}
	if (status == 0)
		return fd;
	close(fd);
	return status;
}

void socket_unix_remove(const char *path, const struct socket_path *made)
{
	struct stat st;

	if (lstat(path, &st) == 0 && st.st_dev == made->device && st.st_ino == made->inode)
		unlink(path);
}

int socket_unix_sender(void)
{
	return open_socket(AF_UNIX, SOCK_DGRAM);
}
