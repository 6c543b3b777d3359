/* SPDX-License-Identifier: Apache-2.0 */
/*
 * privileges.h - what the daemon may do: the capabilities that it keeps, and how it gives up the rest.
 *
 * Marking takes CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; nothing else that the daemon does while it runs
 * takes any. They are kept ambient, so that the new image of the binary has them after handover_exec().
 * Kernels before 5.8 have neither CAP_BPF nor CAP_PERFMON: there CAP_SYS_ADMIN stands for both.
 *
 * What only root can do (make directories below /run, a FIFO for another owner, reach a BPF file system
 * mounted 0700) is done before, and its descriptors are kept.
 */
#ifndef PRIVILEGES_H
#define PRIVILEGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

enum privilege {
	PRIVILEGE_BPF = 1,	 /* programs and tables */
	PRIVILEGE_NET_ADMIN = 2, /* attaching programs to interfaces */
	PRIVILEGE_PERFMON = 4,	 /* the marking program's use of pointers */
	PRIVILEGES_ALL = 7,
};

enum { PRIVILEGES_GROUPS_MAX = 256 };

/* A user as a process can be one. */
struct privileges_user {
	uint32_t uid;
	uint32_t gid;
	uint32_t groups_count;
	uint32_t groups[256]; /* supplementary, PRIVILEGES_GROUPS_MAX */
};

/*
 * Find a user, by name or number, with all its groups. `group` takes the place of the user's own group
 * unless it is ""; a number without an account needs one. 0, or -ENOENT and a sentence in `error`.
 */
FFI_EXPORT int privileges_find_user(const char *user, const char *group, struct privileges_user *out,
				    char *error, size_t error_size);

/* The effective user. */
FFI_EXPORT uint32_t privileges_uid(void);

/*
 * As root: become that user for good, with the three capabilities (those of them that we have) and none
 * else: permitted, effective, inheritable, ambient and bounding set. No program that is started gets more
 * (no_new_privs, securebits locked). 0, or -errno and a sentence; the process is then to end.
 */
FFI_EXPORT int privileges_drop(const struct privileges_user *user, char *error, size_t error_size);

/*
 * As an ordinary user, started with capabilities (systemd's AmbientCapabilities, setpriv, file
 * capabilities): keep the three of them, ambient, and give up all others. 0 or -errno.
 */
FFI_EXPORT int privileges_keep(void);

/* Let programs that are started from now on have no capability (on = false), or what handover_exec()
 * needs. Returns what was the case. For the moment of starting one, with signals blocked. */
bool privileges_ambient(bool on);

/* Which of these (enum privilege, or'ed) are missing? */
FFI_EXPORT uint32_t privileges_missing(uint32_t needed);

/*
 * Why something that takes these failed with EPERM or EACCES: ": needs CAP_NET_ADMIN (to attach ...),
 * which user 990 does not have", ready to be appended to a message.
 */
FFI_EXPORT void privileges_explain(uint32_t needed, char *out, size_t size);

/* Kernels before 5.11 count BPF tables as locked memory, of which a process may have little. Raise that
 * limit as far as we may. */
FFI_EXPORT void privileges_raise_memlock(void);

/* Could that user open this descriptor's file for reading? By owner, group and mode; its path aside. */
FFI_EXPORT bool privileges_readable(int fd, const struct privileges_user *user);

/* As we are: may we do that (R_OK 4, W_OK 2, X_OK 1) with what is at the path? 0 or -errno. */
FFI_EXPORT int privileges_access(const char *path, int mode);

/* May we give a file of ours to that user and group? UINT32_MAX: it keeps its own. */
FFI_EXPORT bool privileges_may_give(uint32_t uid, uint32_t gid);

/*
 * As root: give a file or directory that is root's to that user; what is not root's,
 * a link, or has other hard links is left. 0, -ENOENT, or -EPERM: it is somebody else's. -errno.
 */
FFI_EXPORT int privileges_give(const char *path, const struct privileges_user *user);

#endif
