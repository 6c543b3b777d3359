/* SPDX-License-Identifier: Apache-2.0 */
/*
 * path_watch.h - learn that a file appeared at a path, or vanished from it, inotify(7).
 *
 * Watches the directory, not the file: a file that is not there cannot be watched.
 * What it says is a hint (events can be lost, watches end when their directory is
 * removed): its user looks for itself, and also now and then without a hint.
 */
#ifndef PATH_WATCH_H
#define PATH_WATCH_H

#include "ffi_export.h"

/* Bits of path_watch_read(). */
enum {
	PATH_WATCH_CHANGED = 1, /* something happened to that name, or events were lost */
	PATH_WATCH_ENDED = 2,	/* the directory is gone or has moved: open a new watch */
};

/* Watch the directory of `path`. Returns a descriptor to poll and close(), or -errno; -ENOSYS
 * where there is no inotify. */
FFI_EXPORT int path_watch_open(const char *path);

/* Watch what is written to the file itself, wherever it is moved to. The descriptor is readable after a
 * change; path_watch_drain() makes it silent again. -errno as above. */
FFI_EXPORT int path_watch_open_file(const char *path);
FFI_EXPORT void path_watch_drain(int fd);

/* Take all events that wait; returns PATH_WATCH_* bits as far as they concern `path`. */
FFI_EXPORT int path_watch_read(int fd, const char *path);

FFI_EXPORT void path_watch_close(int fd);

#endif
