/* SPDX-License-Identifier: Apache-2.0 */
#include "console_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 128, GROUPS_MAX = 65536 };

static int set_address(struct sockaddr_un *address, const char *path)
{
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof(address->sun_path))
		return -ENAMETOOLONG;
	strcpy(address->sun_path, path);
	return 0;
}

static int connect_to(const struct sockaddr_un *address, int flags)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	int status;

	if (fd < 0)
		return -errno;
	do {
		status = connect(fd, (const struct sockaddr *)address, sizeof(*address));
	} while (status != 0 && errno == EINTR);
	if (status != 0) {
		status = -errno;
		close(fd);
		return status;
	}
	return fd;
}

int console_socket_connect(const char *path)
{
	struct sockaddr_un address;
	int status = set_address(&address, path);

	return status != 0 ? status : connect_to(&address, 0);
}

/* What a daemon before us left goes; what is anything else stays. */
static int make_way(const struct sockaddr_un *address, char *error, size_t error_size)
{
	const char *path = address->sun_path;
	struct stat st;
	int fd;

	if (lstat(path, &st) != 0) {
		if (errno == ENOENT)
			return 0;
		snprintf(error, error_size, "%s: %s", path, strerror(errno));
		return -errno;
	}
	if (!S_ISSOCK(st.st_mode)) {
		snprintf(error, error_size, "%s: is there and is no socket: remove it or choose another path",
			 path);
		return -EEXIST;
	}
	fd = connect_to(address, SOCK_NONBLOCK);
	if (fd >= 0 || fd == -EAGAIN) {
		if (fd >= 0)
			close(fd);
		snprintf(error, error_size, "%s: another process answers there", path);
		return -EADDRINUSE;
	}
	if (fd != -ECONNREFUSED) {
		snprintf(error, error_size, "%s: whether somebody answers there cannot be told: %s", path,
			 strerror(-fd));
		return fd;
	}
	if (unlink(path) != 0 && errno != ENOENT) {
		int saved = errno;

		snprintf(error, error_size, "%s: left by a daemon before this one, cannot be removed: %s",
			 path, strerror(saved));
		return -saved;
	}
	return 0;
}

int console_socket_listen(const char *path, uint32_t mode, uint32_t gid, char *error, size_t error_size)
{
	struct sockaddr_un address;
	const char *what = "bind";
	mode_t mask;
	int fd, status;

	if (set_address(&address, path) != 0) {
		snprintf(error, error_size, "%s: too long for a socket: at most %zu octets", path,
			 sizeof(address.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	status = make_way(&address, error, error_size);
	if (status != 0)
		return status;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		snprintf(error, error_size, "%s: socket: %s", path, strerror(errno));
		return -errno;
	}
	mask = umask(0177);
	status = bind(fd, (struct sockaddr *)&address, sizeof(address));
	umask(mask);
	if (status == 0 && gid != CONSOLE_NOBODY) {
		what = "chown";
		status = lchown(path, (uid_t)-1, gid);
	}
	if (status == 0) {
		what = "chmod";
		status = chmod(path, mode);
	}
	/* Connections are refused until here. */
	if (status == 0) {
		what = "listen";
		status = listen(fd, BACKLOG);
	}
	if (status == 0)
		return fd;
	status = -errno;
	snprintf(error, error_size, "%s: %s: %s", path, what, strerror(errno));
	if (strcmp(what, "bind") != 0)
		unlink(path);
	close(fd);
	return status;
}

static bool has_group(const gid_t *groups, size_t count, uint32_t gid)
{
	for (size_t i = 0; i < count; i++) {
		if (groups[i] == gid)
			return true;
	}
	return false;
}

/* The supplementary groups, malloc'ed; NULL and *count 0 when the kernel does not tell. */
static gid_t *peer_groups(int fd, size_t *count)
{
	socklen_t size = 64 * sizeof(gid_t);
	gid_t *groups = NULL;

	*count = 0;
	for (;;) {
		socklen_t given = size;
		gid_t *larger = realloc(groups, given);

		if (!larger)
			break;
		groups = larger;
		if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &given) == 0) {
			*count = given / sizeof(gid_t);
			return groups;
		}
		if (errno != ERANGE || given <= size || given > GROUPS_MAX * sizeof(gid_t))
			break;
		size = given;
	}
	free(groups);
	return NULL;
}

int console_socket_peer(int fd, uint32_t group, uint32_t readonly_group, struct console_peer *peer)
{
	struct ucred credentials;
	socklen_t size = sizeof(credentials);
	gid_t *groups;
	size_t count;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0)
		return -errno;
	peer->uid = credentials.uid;
	peer->gid = credentials.gid;
	peer->pid = credentials.pid;
	peer->access = CONSOLE_ACCESS_NONE;
	if (credentials.uid == 0 || credentials.uid == geteuid()) {
		peer->access = CONSOLE_ACCESS_FULL;
		return 0;
	}
	groups = peer_groups(fd, &count);
	if (group != CONSOLE_NOBODY && (credentials.gid == group || has_group(groups, count, group)))
		peer->access = CONSOLE_ACCESS_FULL;
	else if (readonly_group != CONSOLE_NOBODY &&
		 (credentials.gid == readonly_group || has_group(groups, count, readonly_group)))
		peer->access = CONSOLE_ACCESS_READ;
	free(groups);
	return 0;
}
