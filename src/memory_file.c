/* SPDX-License-Identifier: Apache-2.0 */
#include "memory_file.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int memory_file_make(const char *label, const void *data, size_t size)
{
	const char *octets = data;
	size_t written = 0;
	int fd = memfd_create(label, MFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	while (written < size) {
		ssize_t n = write(fd, octets + written, size - written);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int status = -errno;

			close(fd);
			return status;
		}
		written += (size_t)n;
	}
	return fd;
}

int64_t memory_file_size(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? st.st_size : -errno;
}

int64_t memory_file_read(int fd, void *buffer, size_t size)
{
	char *octets = buffer;
	size_t got = 0;

	while (got < size) {
		ssize_t n = pread(fd, octets + got, size - got, (off_t)got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		got += (size_t)n;
	}
	return (int64_t)got;
}
