/* SPDX-License-Identifier: Apache-2.0 */
/* privileges_files.c - users, and what files they can have and read: for the time before root is left. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "account.h"
#include "privileges.h"

_Static_assert(sizeof(((struct privileges_user *)0)->groups) == PRIVILEGES_GROUPS_MAX * sizeof(uint32_t),
	       "groups[] holds PRIVILEGES_GROUPS_MAX");

int privileges_find_user(const char *user, const char *group, struct privileges_user *out, char *error,
			 size_t error_size)
{
	int count;

	if (account_user(user, &out->uid) != 0) {
		snprintf(error, error_size, "user: there is no user \"%s\"", user);
		return -ENOENT;
	}
	if (group[0] != '\0' && account_group(group, &out->gid) != 0) {
		snprintf(error, error_size, "group: there is no group \"%s\"", group);
		return -ENOENT;
	}
	count = account_groups(out->uid, group[0] == '\0' ? &out->gid : NULL, out->groups,
			       PRIVILEGES_GROUPS_MAX);
	if (count < 0 && group[0] == '\0') {
		snprintf(error, error_size,
			 "user: number %u has no account, and so no group of its own: "
			 "set the option group, too",
			 out->uid);
		return -ENOENT;
	}
	out->groups_count = count < 0 ? 0 : (uint32_t)count;
	return 0;
}

static bool has_group(const struct privileges_user *user, uint32_t gid)
{
	if (user->gid == gid)
		return true;
	for (uint32_t i = 0; i < user->groups_count; i++) {
		if (user->groups[i] == gid)
			return true;
	}
	return false;
}

bool privileges_readable(int fd, const struct privileges_user *user)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return false;
	if (user->uid == 0)
		return true;
	if (st.st_uid == user->uid)
		return st.st_mode & S_IRUSR;
	return st.st_mode & (has_group(user, st.st_gid) ? S_IRGRP : S_IROTH);
}

int privileges_access(const char *path, int mode)
{
	return faccessat(AT_FDCWD, path, mode, AT_EACCESS) == 0 ? 0 : -errno;
}

bool privileges_may_give(uint32_t uid, uint32_t gid)
{
	gid_t groups[PRIVILEGES_GROUPS_MAX];
	int count;

	if (geteuid() == 0)
		return true;
	if (uid != UINT32_MAX && uid != geteuid())
		return false;
	if (gid == UINT32_MAX || gid == getegid())
		return true;
	count = getgroups(PRIVILEGES_GROUPS_MAX, groups);
	for (int i = 0; i < count; i++) {
		if (groups[i] == gid)
			return true;
	}
	return false;
}

int privileges_give(const char *path, const struct privileges_user *user)
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	int r = 0;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) != 0)
		r = -errno;
	else if (st.st_uid == user->uid)
		r = 0;
	else if (st.st_uid != 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) ||
		 (S_ISREG(st.st_mode) && st.st_nlink != 1))
		r = -EPERM;
	else if (fchown(fd, user->uid, user->gid) != 0)
		r = -errno;
	close(fd);
	return r;
}
