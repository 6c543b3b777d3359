/* SPDX-License-Identifier: Apache-2.0 */
#include "fifo.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	OPEN_FLAGS = O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW,
	ATTEMPTS = 8, /* when others change what stands at the path meanwhile */
};

static int explain(char *message, int err, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Write the message; returns err. */
static int explain(char *message, int err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(message, FIFO_MESSAGE_SIZE, format, args);
	va_end(args);
	return err;
}

/* Rename, but never over something. POSIX has no such call: hard links give the same, except
 * on file systems that have none. Returns 0 or -errno, -EEXIST when `to` exists. */
static int rename_to_unused(const char *from, const char *to)
{
	int err;

	if (link(from, to) == 0) {
		if (unlink(from) == 0)
			return 0;
		err = -errno;
		unlink(to);
		return err;
	}
	err = -errno;
#ifdef RENAME_NOREPLACE
	if (err == -EPERM || err == -EOPNOTSUPP || err == -ENOSYS)
		err = renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0 ? 0 : -errno;
#endif
	return err;
}

static int lock_reader(int fd)
{
	/* A file system without locks is no reason not to read. */
	if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
		return -EBUSY;
	return 0;
}

/* A burst fits into the kernel's buffer while we are busy. Best effort: unprivileged users
 * have a limit. */
static void enlarge(int fd)
{
#ifdef F_SETPIPE_SZ
	(void)fcntl(fd, F_SETPIPE_SZ, FIFO_PIPE_SIZE);
#else
	(void)fd;
#endif
}

static void adopt(struct fifo *fifo, int fd, const struct stat *st, bool created)
{
	enlarge(fd);
	fifo->fd = fd;
	fifo->created = created;
	fifo->notable = false;
	fifo->device = st->st_dev;
	fifo->inode = st->st_ino;
}

/* The directory part of a path, "." or "/" where it is implied. */
static void directory_of(const char *path, char *out, size_t size)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		snprintf(out, size, ".");
	else
		snprintf(out, size, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

static int explain_directory(const char *path, int err, char *message)
{
	char directory[PATH_MAX];

	directory_of(path, directory, sizeof(directory));
	if (err == -ENOENT)
		return explain(message, err, "%s: the directory %s does not exist", path, directory);
	return explain(message, err, "%s: a FIFO cannot be made in %s: %s", path, directory, strerror(-err));
}

/* Make a FIFO under a name that nobody else uses. */
static int make_hidden(const char *path, char *hidden, size_t size, char *message)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;

	for (int i = 0; i < ATTEMPTS; i++) {
		int n = snprintf(hidden, size, "%.*s.flowd-lua.%ld-%d", (int)(name - path), path,
				 (long)getpid(), i);

		if (n < 0 || (size_t)n >= size)
			return explain(message, -ENAMETOOLONG, "%s: the path is too long", path);
		if (mkfifo(hidden, 0600) == 0)
			return 0;
		if (errno != EEXIST)
			return explain_directory(path, -errno, message);
	}
	return explain(message, -EEXIST, "%s: %s is in the way: remove it", path, hidden);
}

static int set_owner_and_mode(int fd, const char *path, const struct fifo_options *o, char *message)
{
	if ((o->uid != UINT32_MAX || o->gid != UINT32_MAX) && fchown(fd, (uid_t)o->uid, (gid_t)o->gid) != 0)
		return explain(message, -errno, "%s: it cannot be given to user %ld, group %ld: %s", path,
			       o->uid == UINT32_MAX ? (long)geteuid() : (long)o->uid,
			       o->gid == UINT32_MAX ? (long)getegid() : (long)o->gid, strerror(errno));
	if (fchmod(fd, (mode_t)o->mode) != 0)
		return explain(message, -errno, "%s: mode %04o cannot be set: %s", path, o->mode,
			       strerror(errno));
	return 0;
}

/* -EEXIST: something appeared at the path meanwhile. */
static int create(struct fifo *fifo, const char *path, const struct fifo_options *o, char *message)
{
	char hidden[PATH_MAX];
	struct stat st;
	int err, fd;

	err = make_hidden(path, hidden, sizeof(hidden), message);
	if (err)
		return err;
	fd = open(hidden, OPEN_FLAGS);
	if (fd < 0) {
		err = explain(message, -errno, "%s: %s cannot be opened: %s", path, hidden, strerror(errno));
		goto out_remove;
	}
	if (fstat(fd, &st) != 0 || !S_ISFIFO(st.st_mode) || st.st_uid != geteuid()) {
		err = explain(message, -EPERM, "%s: somebody else replaced %s", path, hidden);
		goto out_close;
	}
	err = set_owner_and_mode(fd, path, o, message);
	if (err)
		goto out_close;
	lock_reader(fd);
	err = rename_to_unused(hidden, path);
	if (err) {
		explain(message, err, "%s: %s cannot be given that name: %s", path, hidden, strerror(-err));
		goto out_close;
	}
	adopt(fifo, fd, &st, true);
	return 0;
out_close:
	close(fd);
out_remove:
	unlink(hidden);
	return err;
}

/* Open what lstat() showed to be a FIFO. -ESTALE: it is not there any more. */
static int open_existing(struct fifo *fifo, const char *path, const struct fifo_options *o,
			 const struct stat *seen, char *message)
{
	struct stat st;
	int fd;

	/* The configured owner's may be ours, left by a daemon that was killed. */
	if (seen->st_uid != 0 && seen->st_uid != geteuid() && seen->st_uid != o->uid)
		return explain(message, -EPERM,
			       "%s: the FIFO belongs to user %ld; expected root or user %ld, who runs "
			       "flowd-lua: change its owner or remove it",
			       path, (long)seen->st_uid, (long)geteuid());
	fd = open(path, OPEN_FLAGS);
	if (fd < 0) {
		if (errno == ENOENT || errno == ELOOP)
			return explain(message, -ESTALE, "%s: it vanished while it was opened", path);
		return explain(message, -errno, "%s: the FIFO cannot be opened: %s", path, strerror(errno));
	}
	if (fstat(fd, &st) != 0 || !S_ISFIFO(st.st_mode) || st.st_ino != seen->st_ino ||
	    st.st_dev != seen->st_dev) {
		close(fd);
		return explain(message, -ESTALE, "%s: it was replaced while it was opened", path);
	}
	if (lock_reader(fd) != 0) {
		close(fd);
		return explain(message, -EBUSY, "%s: another flowd-lua reads this FIFO already", path);
	}
	adopt(fifo, fd, &st, false);
	fifo->notable = (st.st_mode & S_IWOTH) != 0;
	if (fifo->notable)
		explain(message, 0,
			"%s: the FIFO was there before and every user can write to it (mode %04o)", path,
			(unsigned int)st.st_mode & 07777);
	else
		explain(message, 0, "%s: the FIFO was there before: used as it is (mode %04o)", path,
			(unsigned int)st.st_mode & 07777);
	return 0;
}

/* Rename the regular file at `path` to `aside`, a name with the time in it. */
static int move_aside(const char *path, char *aside, size_t size, char *message)
{
	time_t now = time(NULL);
	char date[32];
	struct tm tm;
	int err = -EEXIST;

	gmtime_r(&now, &tm);
	strftime(date, sizeof(date), "%Y%m%dT%H%M%SZ", &tm);
	for (int i = 0; i < ATTEMPTS && err == -EEXIST; i++) {
		int n = snprintf(aside, size, i ? "%s.replaced-%s-%d" : "%s.replaced-%s", path, date, i);

		if (n < 0 || (size_t)n >= size)
			return explain(message, -ENAMETOOLONG, "%s: the path is too long", path);
		err = rename_to_unused(path, aside);
	}
	if (err)
		explain(message, err, "%s: the regular file cannot be renamed to %s: %s", path, aside,
			strerror(-err));
	return err;
}

static const char *type_name(mode_t mode)
{
	if (S_ISLNK(mode))
		return "a symbolic link";
	if (S_ISDIR(mode))
		return "a directory";
	if (S_ISSOCK(mode))
		return "a socket";
	return "a device";
}

int fifo_open(struct fifo *fifo, const char *path, const struct fifo_options *o, char *message)
{
	char aside[PATH_MAX] = "";
	struct stat st;
	int err = -EEXIST;

	fifo->fd = -1;
	for (int i = 0; i < ATTEMPTS && (err == -EEXIST || err == -ESTALE); i++) {
		if (lstat(path, &st) != 0) {
			if (errno != ENOENT)
				return explain(message, -errno, "%s: %s", path, strerror(errno));
			message[0] = '\0';
			err = create(fifo, path, o, message);
		} else if (S_ISFIFO(st.st_mode)) {
			err = open_existing(fifo, path, o, &st, message);
		} else if (!S_ISREG(st.st_mode)) {
			return explain(message, -EINVAL,
				       "%s: expected a FIFO or nothing, found %s: remove it", path,
				       type_name(st.st_mode));
		} else if (!o->replace_regular_file) {
			return explain(message, -EINVAL,
				       "%s: expected a FIFO or nothing, found a regular file (a program "
				       "wrote there while no FIFO was there?): remove it, or set "
				       "replace_regular_file = true "
				       "to have it renamed",
				       path);
		} else {
			err = move_aside(path, aside, sizeof(aside), message);
			if (err == 0)
				err = -EEXIST; /* look again: the path is free now */
			else if (err != -ENOENT)
				return err;
		}
	}
	if (err == 0 && aside[0] != '\0') {
		fifo->notable = true;
		explain(message, 0, "%s: the regular file that was there is now %s", path, aside);
	}
	return err;
}

int fifo_spare(const struct fifo *fifo)
{
	char path[40];
	int fd;

	/* Not by the FIFO's path: another one may stand there by now. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fifo->fd);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

bool fifo_is_same(const struct fifo *fifo, int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode) && st.st_dev == fifo->device &&
	       st.st_ino == fifo->inode;
}

int fifo_reopen(struct fifo *fifo)
{
	int fd = fifo_spare(fifo);

	if (fd < 0)
		return fd;
	close(fifo->fd);
	fifo->fd = fd;
	lock_reader(fd);
	return 0;
}

int fifo_is_at(const struct fifo *fifo, const char *path)
{
	struct stat st;

	if (lstat(path, &st) != 0)
		return -errno;
	return S_ISFIFO(st.st_mode) && st.st_dev == fifo->device && st.st_ino == fifo->inode;
}

uint32_t fifo_waiting(const struct fifo *fifo)
{
	int octets = 0;

	if (fifo->fd < 0 || ioctl(fifo->fd, FIONREAD, &octets) != 0 || octets < 0)
		return 0;
	return (uint32_t)octets;
}

int fifo_remove(const struct fifo *fifo, const char *path)
{
	if (!fifo->created || fifo_is_at(fifo, path) != 1)
		return 0;
	return unlink(path) == 0 ? 0 : -errno;
}

void fifo_close(struct fifo *fifo)
{
	if (fifo->fd >= 0)
		close(fifo->fd);
	fifo->fd = -1;
}
