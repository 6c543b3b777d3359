/* SPDX-License-Identifier: Apache-2.0 */
/*
 * process.h - what a daemon leaves in the file system besides its state: its directories
 * and its pid file.
 *
 * Errors: -errno, with a sentence in `error` that names the path.
 */
#ifndef PROCESS_H
#define PROCESS_H

#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

/*
 * Make a directory that the daemon keeps files in, and its parents where they are missing:
 * mode 0755 whatever the umask, owner the daemon's user. One that is there already is left
 * as it is; it must belong to root or the daemon's user and not be writable by others
 * (unless sticky): -EPERM. "" stands for no directory: nothing is done.
 */
FFI_EXPORT int process_prepare_directory(const char *path, char *error, size_t error_size);

/*
 * As root, the same for a daemon that becomes that user: the directory is the user's then, its parents
 * root's. One of root's is given to the user when it is empty or, for `file`, holds a file of that name
 * (a state file of the daemon's); else -EPERM.
 */
FFI_EXPORT int process_prepare_directory_for(const char *path, uint32_t uid, uint32_t gid, const char *file,
					     char *error, size_t error_size);

/*
 * Write our process id and a newline, mode 0644. The file appears complete (written beside
 * it and renamed), replaces one that a dead daemon left, and never follows a link. One that holds our
 * process id is left: an image of the binary before this one, which was still root, wrote it.
 */
FFI_EXPORT int process_write_pid_file(const char *path, char *error, size_t error_size);

/* Remove the pid file if it still holds our process id; where only root may, it is left empty. */
FFI_EXPORT void process_remove_pid_file(const char *path);

/*
 * The paths that match a pattern of glob(7), sorted, each closed by a NUL, in `out`.
 * Returns how many; -E2BIG when they do not fit; -errno when a directory cannot be read.
 */
FFI_EXPORT int process_glob(const char *pattern, char *out, size_t size);

#endif
