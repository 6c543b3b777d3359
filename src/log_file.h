/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log_file.h - files that others append to, rename, copy and truncate: system calls for flowd.follow.
 *
 * Errors are -errno.
 */
#ifndef LOG_FILE_H
#define LOG_FILE_H

#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

enum { LOG_FILE_NAME_SIZE = 256 };

/* An open file. Owned by its opener; fd -1: closed. */
struct log_file {
	int32_t fd;
	uint32_t spare;
	uint64_t device;
	uint64_t inode;
};

/* A file of the directory. */
struct log_file_entry {
	uint64_t device;
	uint64_t inode;
	int64_t modified_ns; /* of UNIX time */
	char name[256];	     /* LOG_FILE_NAME_SIZE, without the directory */
};

/* Open a regular file for reading, also through a symbolic link. -EINVAL: it is something else. */
FFI_EXPORT int log_file_open(struct log_file *f, const char *path);
FFI_EXPORT void log_file_close(struct log_file *f);

/* Read at an offset. Returns the octets, 0 at the end. */
FFI_EXPORT int64_t log_file_read(const struct log_file *f, uint64_t offset, char *out, size_t size);

/* Octets in the file. */
FFI_EXPORT int64_t log_file_size(const struct log_file *f);

/* Is this file what stands at the path? 1: yes; 0: something else does; -ENOENT: nothing. */
FFI_EXPORT int log_file_is_at(const struct log_file *f, const char *path);

/* A fingerprint of the (up to) 64 octets before `offset`: 0 when they are not there. Tells a file that was
 * truncated and written again, and the copy of a file from another file. */
FFI_EXPORT uint64_t log_file_print(const struct log_file *f, uint64_t offset);

/* The regular files in the directory of `path` whose names begin with its name, itself included. Returns how
 * many there are, of which at most `max` are in `out`. */
FFI_EXPORT int log_file_list(const char *path, struct log_file_entry *out, int max);

#endif
