/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fifo.h - the reading end of a named pipe, fifo(7).
 *
 * A FIFO that is made here becomes visible under its path with its final mode and
 * owner, and with its reader already there: from its first instant a writer can open it
 * and no octet is lost. Nothing that stands at the path is ever overwritten.
 *
 * Two readers of one FIFO would tear each other's lines apart: the reader holds a
 * flock(2) on it.
 */
#ifndef FIFO_H
#define FIFO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

enum {
	FIFO_PIPE_SIZE = 1048576, /* octets the kernel is asked to buffer */
	FIFO_MESSAGE_SIZE = 512,
};

struct fifo_options {
	uint32_t mode;		   /* permission bits, 0..0777 */
	uint32_t uid;		   /* UINT32_MAX: the daemon's */
	uint32_t gid;		   /* UINT32_MAX: the daemon's */
	bool replace_regular_file; /* rename one at the path aside, do not refuse it */
};

/* Owned by its opener. */
struct fifo {
	int32_t fd;   /* non-blocking, close-on-exec; -1: closed */
	bool created; /* we made it: fifo_remove() removes it */
	bool notable; /* fifo_open()'s remark deserves a warning */
	uint64_t device;
	uint64_t inode;
};

/*
 * Make the FIFO at `path`, or open the one that is there if root, the effective user or
 * options->uid owns it: that one is used as it is, its mode and owner are not touched. Anything else at the
 * path is an error: a symbolic link, somebody else's FIFO, a regular file (unless it may be replaced), a FIFO
 * that another process reads. Returns 0, `message` then holds a remark for the log or ""; or -errno and one
 * line in `message` that names the path. message has FIFO_MESSAGE_SIZE octets.
 */
FFI_EXPORT int fifo_open(struct fifo *fifo, const char *path, const struct fifo_options *options,
			 char *message);

/*
 * After an end of file: replace the descriptor by a new one for the same FIFO, wherever it
 * is in the file system now. The old one reports POLLHUP until the next writer comes, the new
 * one is silent. The new one is opened before the old one is closed: the pipe never is without
 * a reader, and what a writer wrote in between is there to read. fifo->fd changes.
 * Returns 0 or -errno; the old descriptor then stays.
 */
FFI_EXPORT int fifo_reopen(struct fifo *fifo);

/*
 * Another descriptor of the same FIFO, without the reader's lock: handed to the process that comes after us,
 * it keeps the pipe and what is in it alive meanwhile. Close-on-exec. Returns it or -errno.
 */
FFI_EXPORT int fifo_spare(const struct fifo *fifo);

/* Is `fd` a descriptor of this FIFO? */
FFI_EXPORT bool fifo_is_same(const struct fifo *fifo, int fd);

/* Is this FIFO what stands at `path`? 1: yes. 0: something else does. -ENOENT: nothing. -errno. */
FFI_EXPORT int fifo_is_at(const struct fifo *fifo, const char *path);

/* Octets that wait to be read; 0 when that cannot be told. */
FFI_EXPORT uint32_t fifo_waiting(const struct fifo *fifo);

/* Remove the FIFO from `path` if we created it and it still stands there. Returns 0 or -errno. */
FFI_EXPORT int fifo_remove(const struct fifo *fifo, const char *path);

/* Close the descriptor: unread octets are lost when no other process has the FIFO open. */
FFI_EXPORT void fifo_close(struct fifo *fifo);

#endif
