// SPDX-License-Identifier: Apache-2.0
#include "file_stamp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int64_t nanoseconds(struct timespec t)
{
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int file_stamp_changed(const char *path, struct file_stamp *stamp)
{
	struct file_stamp now = {0};
	struct stat st;

	if (stat(path, &st) == 0) {
		int64_t written = nanoseconds(st.st_mtim), changed = nanoseconds(st.st_ctim);

		now.device = st.st_dev;
		now.inode = st.st_ino;
		now.size = st.st_size;
		now.changed_ns = written > changed ? written : changed;
	}
	if (memcmp(&now, stamp, sizeof(now)) == 0)
		return 0;
	*stamp = now;
	return 1;
}

int file_is_below(const char *path, const char *directory)
{
	char *file = realpath(path, NULL);
	char *above = file ? realpath(directory, NULL) : NULL;
	int result = -errno;

	if (above) {
		size_t length = strcmp(above, "/") == 0 ? 0 : strlen(above);

		result = strncmp(file, above, length) == 0 && file[length] == '/';
	}
	free(file);
	free(above);
	return result;
}
