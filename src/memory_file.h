/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_file.h - text in a file without a name (memfd_create(2)): what one image of the binary leaves to
 * the next (handover.h), wherever the disk is full or not ours.
 */
#ifndef MEMORY_FILE_H
#define MEMORY_FILE_H

#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

/* A close-on-exec descriptor of a new file with that content, the caller's to close; -errno. `label` is
 * what /proc shows. */
FFI_EXPORT int memory_file_make(const char *label, const void *data, size_t size);

/* Octets in the file, or -errno. */
FFI_EXPORT int64_t memory_file_size(int fd);

/* Octets from its start, at most `size`. Returns how many, or -errno. */
FFI_EXPORT int64_t memory_file_read(int fd, void *buffer, size_t size);

#endif
