/* SPDX-License-Identifier: Apache-2.0 */
#include "account.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* UINT32_MAX is "no id" to chown(2). */
static bool as_number(const char *name, uint32_t *id)
{
	unsigned long long value = 0;

	for (const char *p = name; *p; p++) {
		if (*p < '0' || *p > '9')
			return false;
		value = value * 10 + (unsigned long long)(*p - '0');
		if (value >= UINT32_MAX)
			return false;
	}
	*id = (uint32_t)value;
	return name[0] != '\0';
}

int account_user(const char *name, uint32_t *uid)
{
	FILE *file;
	const struct passwd *entry = NULL;

	if (as_number(name, uid))
		return 0;
	file = fopen("/etc/passwd", "re");
	if (file) {
		while ((entry = fgetpwent(file)) != NULL && strcmp(entry->pw_name, name) != 0)
			;
		if (entry)
			*uid = entry->pw_uid;
		fclose(file);
	}
#ifndef FLOWD_STATIC
	if (!entry) {
		entry = getpwnam(name);
		if (entry)
			*uid = entry->pw_uid;
	}
#endif
	return entry ? 0 : -ENOENT;
}

int account_group(const char *name, uint32_t *gid)
{
	FILE *file;
	const struct group *entry = NULL;

	if (as_number(name, gid))
		return 0;
	file = fopen("/etc/group", "re");
	if (file) {
		while ((entry = fgetgrent(file)) != NULL && strcmp(entry->gr_name, name) != 0)
			;
		if (entry)
			*gid = entry->gr_gid;
		fclose(file);
	}
#ifndef FLOWD_STATIC
	if (!entry) {
		entry = getgrnam(name);
		if (entry)
			*gid = entry->gr_gid;
	}
#endif
	return entry ? 0 : -ENOENT;
}
