/* SPDX-License-Identifier: Apache-2.0 */
#include "process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"

static int fail(int status, const char *path, char *error, size_t error_size)
{
	snprintf(error, error_size, "%s: %s", path, strerror(-status));
	return status;
}

static int make_directory(const char *path)
{
	if (mkdir(path, 0755) != 0)
		return errno == EEXIST ? 0 : -errno;
	return chmod(path, 0755) == 0 ? 0 : -errno;
}

static int make_parents(const char *path, char *error, size_t error_size)
{
	char parent[PATH_MAX];
	size_t length = strlen(path);

	if (length >= sizeof(parent))
		return fail(-ENAMETOOLONG, path, error, error_size);
	memcpy(parent, path, length + 1);
	for (char *slash = strchr(parent + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		int status;

		*slash = '\0';
		status = make_directory(parent);
		if (status != 0)
			return fail(status, parent, error, error_size);
		*slash = '/';
	}
	return 0;
}

/* Make it with its parents where they are missing, and see whether it can be used. */
static int prepare(const char *path, uint32_t uid, struct stat *st, char *error, size_t error_size)
{
	int status = make_parents(path, error, error_size);

	if (status != 0)
		return status;
	status = make_directory(path);
	if (status != 0)
		return fail(status, path, error, error_size);
	if (stat(path, st) != 0)
		return fail(-errno, path, error, error_size);
	if (!S_ISDIR(st->st_mode))
		return fail(-ENOTDIR, path, error, error_size);
	if (st->st_uid != 0 && st->st_uid != uid) {
		snprintf(error, error_size, "%s: belongs to user %u, expected root or user %u", path,
			 st->st_uid, uid);
		return -EPERM;
	}
	if ((st->st_mode & (S_IWGRP | S_IWOTH)) && !(st->st_mode & S_ISVTX)) {
		snprintf(error, error_size, "%s: can be written by %s (mode %04o): chmod go-w %s", path,
			 st->st_mode & S_IWOTH ? "everybody" : "its group", st->st_mode & 07777, path);
		return -EPERM;
	}
	return 0;
}

int process_prepare_directory(const char *path, char *error, size_t error_size)
{
	struct stat st;

	return path[0] == '\0' ? 0 : prepare(path, geteuid(), &st, error, error_size);
}

/* May a directory of root's be given away? -EPERM: others may use it too. */
static int is_free(int directory, const char *file)
{
	DIR *dir = fdopendir(directory);
	const struct dirent *entry;
	bool empty = true, ours = false;

	if (!dir) {
		close(directory);
		return -errno;
	}
	while ((entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		empty = false;
		ours = ours || strcmp(entry->d_name, file) == 0;
	}
	closedir(dir);
	return empty || ours ? 0 : -EPERM;
}

int process_prepare_directory_for(const char *path, uint32_t uid, uint32_t gid, const char *file, char *error,
				  size_t error_size)
{
	struct stat st;
	int fd, status;

	if (path[0] == '\0')
		return 0;
	status = prepare(path, uid, &st, error, error_size);
	if (status != 0 || st.st_uid == uid)
		return status;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return fail(-errno, path, error, error_size);
	status = st.st_mode & S_ISVTX ? -EPERM : is_free(dup(fd), file);
	if (status == 0 && fchown(fd, uid, gid) != 0)
		status = -errno;
	close(fd);
	if (status == -EPERM)
		snprintf(error, error_size,
			 "%s: belongs to root and other things are in it: user %u needs one of its own "
			 "(chown -R %u %s, if that is all flowd-lua's)",
			 path, uid, uid, path);
	else if (status != 0)
		fail(status, path, error, error_size);
	return status;
}

/* A descriptor of the pid file if it holds our process id, else -1. */
static int open_own_pid_file(const char *path)
{
	char text[16] = "";
	int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0 && (read(fd, text, sizeof(text) - 1) <= 0 || strtol(text, NULL, 10) != getpid())) {
		close(fd);
		fd = -1;
	}
	return fd;
}

int process_write_pid_file(const char *path, char *error, size_t error_size)
{
	char temporary[PATH_MAX], text[16];
	int length = snprintf(text, sizeof(text), "%d\n", (int)getpid());
	int fd = open_own_pid_file(path), status = 0;

	if (fd >= 0) {
		close(fd);
		return 0;
	}
	if (snprintf(temporary, sizeof(temporary), "%s.XXXXXX", path) >= (int)sizeof(temporary))
		return fail(-ENAMETOOLONG, path, error, error_size);
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0)
		return fail(-errno, path, error, error_size);
	errno = ENOSPC;
	if (write(fd, text, (size_t)length) != length || fchmod(fd, 0644) != 0)
		status = -errno;
	if (close(fd) != 0 && status == 0)
		status = -errno;
	if (status == 0 && rename(temporary, path) != 0)
		status = -errno;
	if (status == 0)
		return 0;
	unlink(temporary);
	return fail(status, path, error, error_size);
}

void process_remove_pid_file(const char *path)
{
	int fd = open_own_pid_file(path);

	if (fd < 0)
		return;
	/* A number of nobody's that others will have one day would be worse than none. */
	if (unlink(path) != 0 && ftruncate(fd, 0) != 0)
		log_warn("pid file %s: cannot be removed: %s", path, strerror(errno));
	close(fd);
}

int process_glob(const char *pattern, char *out, size_t size)
{
	size_t used = 0;
	glob_t found = {0};
	int status = glob(pattern, GLOB_ERR, NULL, &found);
	int count = 0;

	if (status == GLOB_NOMATCH)
		count = 0;
	else if (status != 0)
		count = status == GLOB_NOSPACE ? -ENOMEM : -errno;
	for (size_t i = 0; status == 0 && i < found.gl_pathc; i++) {
		size_t length = strlen(found.gl_pathv[i]) + 1;

		if (used + length > size) {
			count = -E2BIG;
			break;
		}
		memcpy(out + used, found.gl_pathv[i], length);
		used += length;
		count++;
	}
	globfree(&found);
	return count;
}
