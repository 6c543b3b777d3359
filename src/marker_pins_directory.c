/* SPDX-License-Identifier: Apache-2.0 */
/* marker_pins_directory.c - the directory that the marker pins in: made, opened, given to a user. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "log.h"
#include "marker_internal.h"

static const char bpf_mount[] = "/sys/fs/bpf";

bool marker_pins_is_bpf_fs(const char *path)
{
	struct statfs fs;

	return statfs(path, &fs) == 0 && (uint32_t)fs.f_type == BPF_FS_MAGIC;
}

/* A directory that root opened for us (marker_pins_prepare). */
bool marker_pins_is_descriptor(const char *directory)
{
	static const char prefix[] = "/proc/self/fd/";

	return strncmp(directory, prefix, sizeof(prefix) - 1) == 0;
}

/* Make the directory where it is missing; -EPERM when it is neither uid's nor ours. */
static int make_directory(const char *directory, uid_t uid)
{
	char copy[MARKER_PINS_PATH_SIZE];
	const char *parent;
	struct stat st;

	snprintf(copy, sizeof(copy), "%s", directory);
	parent = dirname(copy);
	if (!marker_pins_is_bpf_fs(parent)) {
		if (strcmp(parent, bpf_mount) != 0)
			return -EMEDIUMTYPE;
		if (mount("bpf", bpf_mount, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") < 0)
			return -errno;
		log_info("marker: mounted a BPF file system at %s", bpf_mount);
	}
	if (mkdir(directory, 0700) < 0 && errno != EEXIST)
		return -errno;
	if (lstat(directory, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	/* Somebody else could put maps of his own there. */
	return st.st_uid == geteuid() || st.st_uid == uid ? 0 : -EPERM;
}

int marker_pins_open_directory(const char *directory)
{
	struct stat st;
	int r;

	if (!marker_pins_is_descriptor(directory)) {
		r = make_directory(directory, geteuid());
		return r == 0 && chmod(directory, 0700) < 0 ? -errno : r;
	}
	if (stat(directory, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode) || !marker_pins_is_bpf_fs(directory))
		return -EMEDIUMTYPE;
	return st.st_uid == geteuid() ? 0 : -EPERM;
}

/* Give what is in the directory to a user; links themselves, not what they lead to. */
static int give_entries(int fd, uid_t uid, gid_t gid)
{
	int copy = dup(fd), r = 0;
	DIR *dir = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *entry;

	if (!dir) {
		r = -errno;
		if (copy >= 0)
			close(copy);
		return r;
	}
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] != '.' && fchownat(fd, entry->d_name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
			r = -errno;
	}
	closedir(dir);
	return r;
}

int marker_pins_prepare(const char *directory, uint32_t uid, uint32_t gid)
{
	int r = make_directory(directory, uid), fd;

	if (r < 0)
		return r;
	fd = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = fchmod(fd, 0700) < 0 || fchown(fd, uid, gid) < 0 ? -errno : give_entries(fd, uid, gid);
	if (r == 0)
		return fd;
	close(fd);
	return r;
}
