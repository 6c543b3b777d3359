/* SPDX-License-Identifier: Apache-2.0 */
#include "trust.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINKS_MAX = 40 }; /* as the kernel's own limit, ELOOP */

/* One walk from the root directory to the file. */
struct walk {
	const char *path; /* as the caller wrote it, for messages */
	int64_t owner;
	char *error;
	size_t error_size;
	char rest[PATH_MAX]; /* what is still to be walked */
	char here[PATH_MAX]; /* where we are, for messages */
	int links;
};

static int __attribute__((format(printf, 3, 4))) refuse(struct walk *w, int status, const char *format, ...)
{
	va_list args;
	int n = snprintf(w->error, w->error_size, "%s: ", w->path);

	va_start(args, format);
	if (n >= 0 && (size_t)n < w->error_size)
		vsnprintf(w->error + n, w->error_size - (size_t)n, format, args);
	va_end(args);
	return status;
}

static int refuse_errno(struct walk *w, const char *component)
{
	int status = -errno;

	/* The last component is what the path itself says. */
	if (w->rest[0] == '\0' && w->links == 0)
		return refuse(w, status, "%s", strerror(-status));
	return refuse(w, status, "%s: %s", component, strerror(-status));
}

static int check_component(struct walk *w, const char *component, const struct stat *st)
{
	if (st->st_uid != 0 && (int64_t)st->st_uid != w->owner) {
		if (w->owner > 0)
			return refuse(w, -EPERM,
				      "not trusted: %s belongs to user %u, expected root or user %lld",
				      component, st->st_uid, (long long)w->owner);
		return refuse(w, -EPERM, "not trusted: %s belongs to user %u, expected root", component,
			      st->st_uid);
	}
	/* A link's own mode means nothing. */
	if (S_ISLNK(st->st_mode) || !(st->st_mode & (S_IWGRP | S_IWOTH)))
		return 0;
	if (S_ISDIR(st->st_mode) && (st->st_mode & S_ISVTX))
		return 0;
	return refuse(w, -EPERM, "not trusted: %s can be written by %s (mode %04o): chmod go-w %s", component,
		      st->st_mode & S_IWOTH ? "everybody" : "its group", st->st_mode & 07777, component);
}

/* The first component of w->rest moves to `name`. */
static void take_component(struct walk *w, char *name, bool *last)
{
	const char *start = w->rest + strspn(w->rest, "/");
	size_t length = strcspn(start, "/");
	const char *after = start + length;

	memcpy(name, start, length);
	name[length] = '\0';
	after += strspn(after, "/");
	*last = *after == '\0';
	memmove(w->rest, after, strlen(after) + 1);
}

/* w->here as the path of `name` in it; ".." goes up, which is exact: `here` has no links. */
static int enter(struct walk *w, const char *name)
{
	size_t length = strlen(w->here), added = strlen(name);

	if (strcmp(name, "..") == 0) {
		char *slash = strrchr(w->here, '/');

		if (slash)
			*slash = '\0';
		return 0;
	}
	if (length + 1 + added >= sizeof(w->here))
		return refuse(w, -ENAMETOOLONG, "%s", strerror(ENAMETOOLONG));
	w->here[length] = '/';
	memcpy(w->here + length + 1, name, added + 1);
	return 0;
}

/* Put the target of the link `fd` before what is still to be walked. */
static int follow(struct walk *w, int fd, int *dir)
{
	char target[PATH_MAX];
	size_t rest = strlen(w->rest);
	ssize_t length;

	if (++w->links > LINKS_MAX)
		return refuse(w, -ELOOP, "%s", strerror(ELOOP));
	length = readlinkat(fd, "", target, sizeof(target) - 1);
	if (length < 0)
		return refuse_errno(w, w->here);
	if ((size_t)length + 1 + rest >= sizeof(w->rest))
		return refuse(w, -ENAMETOOLONG, "%s", strerror(ENAMETOOLONG));
	memmove(w->rest + length + 1, w->rest, rest + 1);
	memcpy(w->rest, target, (size_t)length);
	w->rest[length] = '/';
	*strrchr(w->here, '/') = '\0';
	if (target[0] == '/') {
		int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (root < 0)
			return refuse_errno(w, "/");
		close(*dir);
		*dir = root;
		w->here[0] = '\0';
	}
	return 0;
}

/* Walk w->rest. Leaves in *dir the directory in which the last component, `name`, stands (its
 * name is "" for the root), and in *st what it is. */
static int walk_to(struct walk *w, int *dir, char *name, struct stat *st)
{
	bool last = false;

	for (;;) {
		const char *here;
		int status, fd;

		take_component(w, name, &last);
		if (name[0] == '\0' || strcmp(name, ".") == 0) {
			if (!last)
				continue;
			strcpy(name, ".");
		}
		status = strcmp(name, ".") == 0 ? 0 : enter(w, name);
		if (status != 0)
			return status;
		here = w->here[0] ? w->here : "/";
		fd = openat(*dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return refuse_errno(w, here);
		if (fstat(fd, st) != 0)
			status = refuse_errno(w, here);
		else
			status = check_component(w, here, st);
		if (status != 0) {
			close(fd);
			return status;
		}
		if (S_ISLNK(st->st_mode)) {
			status = follow(w, fd, dir);
			close(fd);
			if (status != 0)
				return status;
			continue;
		}
		if (last) {
			close(fd);
			return 0;
		}
		close(*dir);
		*dir = fd;
	}
}

/* Opens the path with `flags`, checked. Returns a descriptor or -errno. */
static int trust_open(struct walk *w, int flags, struct stat *st)
{
	char name[PATH_MAX];
	struct stat checked;
	int dir, fd, status;

	if (w->path[0] == '/') {
		w->rest[0] = '\0';
	} else if (!getcwd(w->rest, sizeof(w->rest))) {
		return refuse_errno(w, w->path);
	}
	if (strlen(w->rest) + 1 + strlen(w->path) >= sizeof(w->rest))
		return refuse(w, -ENAMETOOLONG, "%s", strerror(ENAMETOOLONG));
	strcat(w->rest, "/");
	strcat(w->rest, w->path);

	dir = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return refuse_errno(w, "/");
	if (fstat(dir, &checked) != 0)
		status = refuse_errno(w, "/");
	else
		status = check_component(w, "/", &checked);
	if (status == 0)
		status = walk_to(w, &dir, name, &checked);
	if (status != 0) {
		close(dir);
		return status;
	}
	/* O_NONBLOCK: a FIFO must not hold us up before it is refused. */
	fd = openat(dir, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	close(dir);
	if (fd < 0 || fstat(fd, st) != 0) {
		status = refuse_errno(w, w->path);
		if (fd >= 0)
			close(fd);
		return status;
	}
	if (st->st_dev != checked.st_dev || st->st_ino != checked.st_ino) {
		close(fd);
		return refuse(w, -EPERM, "not trusted: it was replaced while it was examined");
	}
	return fd;
}

static int64_t effective_owner(const char *path, int64_t owner)
{
	return owner == TRUST_OWN_FILE ? trust_file_owner(path) : owner;
}

int trust_check(const char *path, int64_t owner, char *error, size_t error_size)
{
	struct walk w = {.path = path, .error = error, .error_size = error_size};
	struct stat st;
	int fd;

	w.owner = effective_owner(path, owner);
	fd = trust_open(&w, O_PATH, &st);
	if (fd < 0)
		return fd;
	close(fd);
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return refuse(&w, -EPERM, "neither a regular file nor a directory");
	return 0;
}

static int64_t read_all(struct walk *w, int fd, char *out, size_t size)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = read(fd, out + done, size - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return refuse_errno(w, w->path);
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (int64_t)done;
}

int64_t trust_read(const char *path, int64_t owner, char *out, size_t size, char *error, size_t error_size)
{
	struct walk w = {.path = path, .error = error, .error_size = error_size};
	struct stat st;
	int64_t result;
	int fd;

	w.owner = effective_owner(path, owner);
	fd = trust_open(&w, O_RDONLY, &st);
	if (fd < 0)
		return fd;
	if (!S_ISREG(st.st_mode))
		result = refuse(&w, -EPERM, "not a regular file");
	else if (!out)
		result = st.st_size;
	else if ((size_t)st.st_size > size)
		result = refuse(&w, -EFBIG, "%lld octets, expected at most %zu", (long long)st.st_size, size);
	else
		result = read_all(&w, fd, out, size);
	close(fd);
	return result;
}

int64_t trust_file_owner(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? (int64_t)st.st_uid : -errno;
}
