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

/* Name and own group of a user; false: it has no account. */
static bool find_name(uint32_t uid, char *name, size_t size, uint32_t *gid)
{
	FILE *file = fopen("/etc/passwd", "re");
	const struct passwd *entry = NULL;

	while (file && (entry = fgetpwent(file)) != NULL && entry->pw_uid != uid)
		;
#ifndef FLOWD_STATIC
	if (!entry)
		entry = getpwuid(uid);
#endif
	if (entry) {
		snprintf(name, size, "%s", entry->pw_name);
		*gid = entry->pw_gid;
	}
	if (file)
		fclose(file);
	return entry != NULL;
}

#ifdef FLOWD_STATIC
static int list_groups(const char *name, uint32_t gid, uint32_t *out, int max)
{
	FILE *file = fopen("/etc/group", "re");
	const struct group *entry;
	int count = 0;

	if (max > 0)
		out[count++] = gid;
	while (file && count < max && (entry = fgetgrent(file)) != NULL) {
		for (char **member = entry->gr_mem; *member && count < max; member++) {
			if (strcmp(*member, name) == 0 && entry->gr_gid != gid)
				out[count++] = entry->gr_gid;
		}
	}
	if (file)
		fclose(file);
	return count;
}
#else
static int list_groups(const char *name, uint32_t gid, uint32_t *out, int max)
{
	int count = max;

	/* More than fit: the first ones. */
	return getgrouplist(name, gid, (gid_t *)out, &count) < 0 ? max : count;
}
#endif

int account_groups(uint32_t uid, uint32_t *gid, uint32_t *out, int max)
{
	uint32_t own;
	char name[256];

	if (!find_name(uid, name, sizeof(name), &own))
		return -ENOENT;
	if (gid)
		*gid = own;
	return list_groups(name, own, out, max);
}
