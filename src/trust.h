/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trust.h - read scripts and configuration only where nobody else can have put them.
 *
 * A path is trusted when every component of it, from the root directory down and through
 * every symbolic link,
 *   - belongs to root or to one given user (the owner of the --conf file), and
 *   - cannot be written by its group or by others; a directory with the sticky bit may be
 *     (/tmp, mode 1777): in it nobody can replace what belongs to root or that user.
 * Each component is opened below the one before it and examined through its descriptor, so
 * that what was checked is what is read. A relative path is checked from the root, too.
 * Access lists need no look of their own: their mask shows in the group's bits.
 *
 * Errors: -errno, with a sentence in `error` that names the path and the component.
 */
#ifndef TRUST_H
#define TRUST_H

#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

/* As `owner`: the user that owns the file itself (for the --conf file). */
enum { TRUST_OWN_FILE = -1 };

/* Is this regular file or directory trusted? Returns 0 or -errno: -EPERM when it is not.
 * `owner`: a uid or TRUST_OWN_FILE. */
FFI_EXPORT int trust_check(const char *path, int64_t owner, char *error, size_t error_size);

/* Check a regular file and read it: at most `size` octets into `out`. Returns its size in
 * octets (with out NULL nothing is read), -EFBIG when it is larger, -EPERM, -errno. */
FFI_EXPORT int64_t trust_read(const char *path, int64_t owner, char *out, size_t size, char *error,
			      size_t error_size);

/* The uid that owns the file, or -errno. */
FFI_EXPORT int64_t trust_file_owner(const char *path);

#endif
