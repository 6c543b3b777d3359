/* SPDX-License-Identifier: Apache-2.0 */
#include "log_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PRINT_OCTETS = 64 };

int log_file_open(struct log_file *f, const char *path)
{
	struct stat st;
	int err;

	/* Not blocking: a FIFO may stand there. */
	f->fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	if (f->fd < 0)
		return -errno;
	if (fstat(f->fd, &st) != 0)
		err = -errno;
	else if (!S_ISREG(st.st_mode))
		err = S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
	else
		err = 0;
	if (err) {
		log_file_close(f);
		return err;
	}
	f->device = st.st_dev;
	f->inode = st.st_ino;
	return 0;
}

void log_file_close(struct log_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
}

int64_t log_file_read(const struct log_file *f, uint64_t offset, char *out, size_t size)
{
	ssize_t n;

	do
		n = pread(f->fd, out, size, (off_t)offset);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

int64_t log_file_size(const struct log_file *f)
{
	struct stat st;

	return fstat(f->fd, &st) == 0 ? st.st_size : -errno;
}

int log_file_is_at(const struct log_file *f, const char *path)
{
	struct stat st;

	if (stat(path, &st) != 0)
		return errno == ENOENT ? -ENOENT : -errno;
	return st.st_dev == f->device && st.st_ino == f->inode;
}

uint64_t log_file_print(const struct log_file *f, uint64_t offset)
{
	char octets[PRINT_OCTETS];
	size_t length = offset < PRINT_OCTETS ? (size_t)offset : PRINT_OCTETS;
	uint64_t hash = 14695981039346656037ULL; /* FNV-1a */

	if (length == 0 || log_file_read(f, offset - length, octets, length) != (int64_t)length)
		return 0;
	for (size_t i = 0; i < length; i++)
		hash = (hash ^ (uint8_t)octets[i]) * 1099511628211ULL;
	return hash ? hash : 1;
}

static int add_entry(int directory, const char *name, struct log_file_entry *out)
{
	struct stat st;

	if (fstatat(directory, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode))
		return 0;
	if (out) {
		out->device = st.st_dev;
		out->inode = st.st_ino;
		out->modified_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
		snprintf(out->name, sizeof(out->name), "%s", name);
	}
	return 1;
}

int log_file_list(const char *path, struct log_file_entry *out, int max)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	char directory[PATH_MAX] = ".";
	const struct dirent *entry;
	int count = 0;
	DIR *dir;

	if (slash && snprintf(directory, sizeof(directory), "%.*s", (int)(name - path), path) >=
			     (int)sizeof(directory))
		return -ENAMETOOLONG;
	dir = opendir(directory);
	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		if (strncmp(entry->d_name, name, strlen(name)) == 0)
			count += add_entry(dirfd(dir), entry->d_name, count < max ? &out[count] : NULL);
	}
	closedir(dir);
	return count;
}
