/* SPDX-License-Identifier: Apache-2.0 */
#include "save_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int write_all(int fd, const char *octets, size_t size)
{
	while (size > 0) {
		ssize_t n = write(fd, octets, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		octets += n;
		size -= (size_t)n;
	}
	return fsync(fd) == 0 ? 0 : -errno;
}

int save_file(const char *path, const void *octets, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r;

	if (fd < 0)
		return -errno;
	r = write_all(fd, octets, size);
	close(fd);
	if (r < 0)
		unlink(path);
	return r;
}

int save_file_replace(const char *path, const void *octets, size_t size, uint32_t mode)
{
	char beside[PATH_MAX];
	int r;

	if (snprintf(beside, sizeof(beside), "%s.new", path) >= (int)sizeof(beside))
		return -ENAMETOOLONG;
	/* Left by one of us that was killed here. */
	unlink(beside);
	r = save_file(beside, octets, size);
	if (r < 0)
		return r;
	if (chmod(beside, mode) == 0 && rename(beside, path) == 0)
		return 0;
	r = -errno;
	unlink(beside);
	return r;
}
