/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file_stamp.h - has a file changed, and is it where it should be?
 */
#ifndef FILE_STAMP_H
#define FILE_STAMP_H

#include <stdint.h>
#include "ffi_export.h"

/* All zero: there is no such file. */
struct file_stamp {
	uint64_t device;
	uint64_t inode;
	int64_t size;
	int64_t changed_ns; /* the later of mtime and ctime, in UNIX time */
};

/* Look at a file, through symbolic links. Returns whether it differs from what was in *stamp, which then
 * holds how it is now: 1 or 0. */
FFI_EXPORT int file_stamp_changed(const char *path, struct file_stamp *stamp);

/* Whether a file, all symbolic links followed, stands below a directory: 1 or 0; -errno when one of them
 * cannot be found. */
FFI_EXPORT int file_is_below(const char *path, const char *directory);

#endif
