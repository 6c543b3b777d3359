/* SPDX-License-Identifier: Apache-2.0 */
/* save_file.h - put octets into a file, whole or not at all. */
#ifndef SAVE_FILE_H
#define SAVE_FILE_H

#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

/* Make a file of mode 0600 and write the octets to the disk. 0 or -errno: -EEXIST when something has that
 * name. A file that could not be written whole is removed. */
FFI_EXPORT int save_file(const char *path, const void *octets, size_t size);

/* The same for a file that may be there: whoever opens it finds the old octets or the new ones, also after a
 * crash. mode: permission bits. */
FFI_EXPORT int save_file_replace(const char *path, const void *octets, size_t size, uint32_t mode);

#endif
