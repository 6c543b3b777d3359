/* SPDX-License-Identifier: Apache-2.0 */
#include "path_watch.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/inotify.h>

static const char *name_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

int path_watch_open(const char *path)
{
	const char *name = name_of(path);
	char directory[PATH_MAX];
	int fd, err;

	if (name - path >= PATH_MAX)
		return -ENAMETOOLONG;
	snprintf(directory, sizeof(directory), "%.*s", (int)(name - path), path);
	fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* Not IN_OPEN, IN_MODIFY: writers that come and write are no news here. */
	if (inotify_add_watch(fd, directory[0] ? directory : ".",
			      IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF |
				      IN_MOVE_SELF | IN_ONLYDIR) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

int path_watch_open_file(const char *path)
{
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	int err;

	if (fd < 0)
		return -errno;
	if (inotify_add_watch(fd, path, IN_MODIFY) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

static int judge(const struct inotify_event *event, const char *name)
{
	if (event->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED | IN_UNMOUNT))
		return PATH_WATCH_CHANGED | PATH_WATCH_ENDED;
	if (event->mask & IN_Q_OVERFLOW)
		return PATH_WATCH_CHANGED;
	return event->len > 0 && strcmp(event->name, name) == 0 ? PATH_WATCH_CHANGED : 0;
}

int path_watch_read(int fd, const char *path)
{
	char buffer[8192] __attribute__((aligned(__alignof__(struct inotify_event))));
	const char *name = name_of(path);
	int seen = 0;
	ssize_t n;

	while ((n = read(fd, buffer, sizeof(buffer))) > 0) {
		for (const char *p = buffer; p < buffer + n;) {
			const struct inotify_event *event = (const struct inotify_event *)(const void *)p;

			seen |= judge(event, name);
			p += sizeof(*event) + event->len;
		}
	}
	return seen;
}

#else

int path_watch_open_file(const char *path)
{
	(void)path;
	return -ENOSYS;
}

int path_watch_open(const char *path)
{
	(void)path;
	return -ENOSYS;
}

int path_watch_read(int fd, const char *path)
{
	(void)fd;
	(void)path;
	return PATH_WATCH_CHANGED;
}

#endif

void path_watch_drain(int fd)
{
	char buffer[4096];

	while (read(fd, buffer, sizeof(buffer)) > 0)
		;
}

void path_watch_close(int fd)
{
	if (fd >= 0)
		close(fd);
}
