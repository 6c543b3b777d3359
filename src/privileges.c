/* SPDX-License-Identifier: Apache-2.0 */
#include "privileges.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel_version.h"

/* Newer than some headers that this is built with. */
#ifndef CAP_PERFMON
#define CAP_PERFMON 38
#endif
#ifndef CAP_BPF
#define CAP_BPF 39
#endif

enum { CAPABILITIES_MAX = 64 };

struct sets {
	uint64_t effective, permitted, inheritable;
};

static const struct {
	uint32_t privilege;
	int capability;
	const char *name, *purpose;
} known[] = {
	{PRIVILEGE_BPF, CAP_BPF, "CAP_BPF", "to load the program and its tables"},
	{PRIVILEGE_NET_ADMIN, CAP_NET_ADMIN, "CAP_NET_ADMIN", "to attach a program to interfaces"},
	{PRIVILEGE_PERFMON, CAP_PERFMON, "CAP_PERFMON",
	 "for the kernel to accept the program's use of pointers"},
};
enum { KNOWN = sizeof(known) / sizeof(known[0]) };

static uint64_t bit_of(int capability)
{
	return UINT64_C(1) << capability;
}

static bool kernel_knows(int capability)
{
	return prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0;
}

/* The capability that stands for a privilege with this kernel. */
static int capability_of(int i)
{
	return kernel_knows(known[i].capability) ? known[i].capability : CAP_SYS_ADMIN;
}

static const char *name_of(int i)
{
	return kernel_knows(known[i].capability) ? known[i].name : "CAP_SYS_ADMIN";
}

static uint64_t wanted_set(void)
{
	uint64_t set = 0;

	for (int i = 0; i < KNOWN; i++)
		set |= bit_of(capability_of(i));
	return set;
}

static int get_sets(struct sets *out)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data) != 0)
		return -errno;
	out->effective = (uint64_t)data[1].effective << 32 | data[0].effective;
	out->permitted = (uint64_t)data[1].permitted << 32 | data[0].permitted;
	out->inheritable = (uint64_t)data[1].inheritable << 32 | data[0].inheritable;
	return 0;
}

/* The same for all three. */
static int set_sets(uint64_t set)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	for (int i = 0; i < 2; i++)
		data[i].effective = data[i].permitted = data[i].inheritable = (uint32_t)(set >> (32 * i));
	return syscall(SYS_capset, &header, data) == 0 ? 0 : -errno;
}

static int raise_ambient(uint64_t set)
{
	int r = 0;

	for (int cap = 0; cap < CAPABILITIES_MAX; cap++) {
		if ((set & bit_of(cap)) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) != 0)
			r = -errno;
	}
	return r;
}

/* Give up all but `set`, for ourselves and what we start. */
static int keep_only(uint64_t set)
{
	int r;

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	r = set_sets(set);
	if (r == 0)
		r = raise_ambient(set);
	if (r == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		r = -errno;
	return r;
}

static int drop_bounding(uint64_t kept)
{
	for (int cap = 0; cap < CAPABILITIES_MAX; cap++) {
		if ((kept & bit_of(cap)) || prctl(PR_CAPBSET_READ, cap, 0, 0, 0) != 1)
			continue;
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0)
			return -errno;
	}
	return 0;
}

static int failed(const char *what, int r, char *error, size_t error_size)
{
	snprintf(error, error_size, "%s: %s", what, strerror(-r));
	return r;
}

int privileges_drop(const struct privileges_user *user, char *error, size_t error_size)
{
	/* Being root means nothing any more, and changing the user changes no capability: ours are set
	 * explicitly. All locked, but that ambient ones may be raised. */
	static const unsigned long bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
					  SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED;
	int r, parent_death = 0;
	struct sets now;
	uint64_t kept;

	prctl(PR_GET_PDEATHSIG, &parent_death, 0, 0, 0);
	r = get_sets(&now);
	if (r < 0)
		return failed("capabilities cannot be read", r, error, error_size);
	kept = now.permitted & wanted_set();
	r = drop_bounding(kept);
	if (r < 0)
		return failed("the bounding set of capabilities cannot be reduced (that takes CAP_SETPCAP)",
			      r, error, error_size);
	if (prctl(PR_SET_SECUREBITS, bits, 0, 0, 0) != 0)
		return failed("securebits cannot be set (that takes CAP_SETPCAP)", -errno, error, error_size);
	if (setgroups(user->groups_count, (const gid_t *)user->groups) != 0)
		return failed("the groups cannot be set (that takes CAP_SETGID)", -errno, error, error_size);
	if (setresgid(user->gid, user->gid, user->gid) != 0)
		return failed("the group cannot be changed (that takes CAP_SETGID)", -errno, error,
			      error_size);
	if (setresuid(user->uid, user->uid, user->uid) != 0)
		return failed("the user cannot be changed (that takes CAP_SETUID)", -errno, error,
			      error_size);
	r = keep_only(kept);
	if (r < 0)
		return failed("capabilities cannot be given up", r, error, error_size);
	if (setresuid(0, 0, 0) == 0 || get_sets(&now) < 0 || now.permitted != kept || geteuid() != user->uid)
		return failed("privileges were given up, but are still there", -EPERM, error, error_size);
	/* A change of user makes a process that leaves no core and hides its /proc. There is nothing to
	 * hide: tracing us takes what we have. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	/* It also forgets what whoever started us may have asked for. */
	prctl(PR_SET_PDEATHSIG, parent_death, 0, 0, 0);
	return 0;
}

int privileges_keep(void)
{
	struct sets now;
	uint64_t kept;
	int r = get_sets(&now);

	if (r < 0)
		return r;
	kept = now.permitted & wanted_set();
	if (now.effective & bit_of(CAP_SETPCAP))
		drop_bounding(kept);
	return keep_only(kept);
}

bool privileges_ambient(bool on)
{
	bool was = false;
	struct sets now;

	for (int i = 0; i < KNOWN; i++) {
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability_of(i), 0, 0) == 1)
			was = true;
	}
	if (!on && was)
		prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	else if (on && get_sets(&now) == 0)
		raise_ambient(now.permitted & now.inheritable & wanted_set());
	return was;
}

uint32_t privileges_uid(void)
{
	return geteuid();
}

uint32_t privileges_missing(uint32_t needed)
{
	uint32_t missing = 0;
	struct sets now;

	if (get_sets(&now) < 0)
		return 0;
	for (int i = 0; i < KNOWN; i++) {
		if ((needed & known[i].privilege) && !(now.effective & bit_of(capability_of(i))))
			missing |= known[i].privilege;
	}
	return missing;
}

void privileges_explain(uint32_t needed, char *out, size_t size)
{
	uint32_t missing = privileges_missing(needed);
	size_t used = 0;

	if (missing == 0) {
		snprintf(out, size,
			 ": the capabilities for it are there, but a user namespace, container, "
			 "security module or limit (ulimit -l) forbids it");
		return;
	}
	for (int i = 0; i < KNOWN && used < size; i++) {
		if (missing & known[i].privilege)
			used += (size_t)snprintf(out + used, size - used, "%s%s (%s)",
						 used == 0 ? ": needs " : " and ", name_of(i),
						 known[i].purpose);
	}
	if (used < size)
		snprintf(out + used, size - used, ", which user %u does not have here",
			 (unsigned int)geteuid());
}

void privileges_raise_memlock(void)
{
	struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};

	if (!kernel_version_before(5, 11))
		return;
	if (setrlimit(RLIMIT_MEMLOCK, &limit) == 0 || getrlimit(RLIMIT_MEMLOCK, &limit) != 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_MEMLOCK, &limit);
}
