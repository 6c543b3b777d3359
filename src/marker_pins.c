/* SPDX-License-Identifier: Apache-2.0 */
/* marker_pins.c - the directory with the maps and links of the marker: made, filled, reused, removed. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "marker_internal.h"

static const char layout_name[] = "layout";

typedef char pin_path[MARKER_PINS_PATH_SIZE];

static void path_of(const struct marker_pins *p, pin_path out, const char *name)
{
	snprintf(out, sizeof(pin_path), "%s/%s", p->directory, name);
}

static void path_of_interface(const struct marker_pins *p, pin_path out, const char *kind, int ifindex)
{
	snprintf(out, sizeof(pin_path), "%s/%s_%u_%d", p->directory, kind, p->netns, ifindex);
}

static unsigned int own_netns(void)
{
	struct stat st;

	return stat("/proc/self/ns/net", &st) == 0 ? (unsigned int)st.st_ino : 0;
}

/* Text of a symbolic link. */
static bool read_text(const char *path, char *text, size_t size)
{
	ssize_t got = readlink(path, text, size - 1);

	text[got < 0 ? 0 : got] = '\0';
	return got >= 0;
}

/* Have a symbolic link with that text, whatever was there. */
static void write_text(const char *path, const char *text)
{
	char old[32];

	if (read_text(path, old, sizeof(old)) && strcmp(old, text) == 0)
		return;
	unlink(path);
	if (symlink(text, path) < 0)
		log_warn("marker: %s: %s", path, strerror(errno));
}

int marker_pins_open(struct marker_pins *p, const char *directory)
{
	int r = strlen(directory) < sizeof(p->directory) ? marker_pins_open_directory(directory)
							 : -ENAMETOOLONG;

	if (r < 0)
		return r;
	snprintf(p->directory, sizeof(p->directory), "%s", directory);
	p->netns = own_netns();
	p->on = true;
	return 0;
}

void marker_pins_warn(const char *directory, int error)
{
	log_warn("marker: cannot keep marks in %s: %s: flows will be unmarked from when this process ends, "
		 "however it ends, until the next one has started",
		 directory, error == -EMEDIUMTYPE ? "no BPF file system (bpffs)" : strerror(-error));
}

/* -- maps ---------------------------------------------------------------------------- */

/* Constants come with each program; the rest is state. */
static bool map_is_kept(const struct bpf_map *map)
{
	return !strstr(bpf_map__name(map), ".rodata") && !strstr(bpf_map__name(map), ".kconfig");
}

/* A BPF file system takes no dots in names; what is before one is cut differently by each libbpf. */
static void map_path(const struct marker_pins *p, pin_path out, const struct bpf_map *map)
{
	const char *name = bpf_map__name(map), *dot = strchr(name, '.');
	char pin[64];

	snprintf(pin, sizeof(pin), "map_%s", dot ? dot + 1 : name);
	path_of(p, out, pin);
}

static bool same_shape(int fd, const struct bpf_map *map)
{
	struct bpf_map_info info = {0};
	uint32_t size = sizeof(info);

	return bpf_obj_get_info_by_fd(fd, &info, &size) == 0 && info.type == bpf_map__type(map) &&
	       info.key_size == bpf_map__key_size(map) && info.value_size == bpf_map__value_size(map) &&
	       info.max_entries == bpf_map__max_entries(map) && info.map_flags == bpf_map__map_flags(map);
}

/* Why the pinned maps do not serve an object; NULL: they do. */
static const char *why_not(const struct marker_pins *p, struct bpf_object *object)
{
	const struct bpf_map *map;
	char text[32], ours[16];
	pin_path path;

	path_of(p, path, layout_name);
	snprintf(ours, sizeof(ours), "%d", MARKER_PINS_LAYOUT);
	if (!read_text(path, text, sizeof(text)))
		return "no layout is noted";
	if (strcmp(text, ours) != 0)
		return "they have another layout";
	bpf_object__for_each_map(map, object)
	{
		bool same;
		int fd;

		if (!map_is_kept(map))
			continue;
		map_path(p, path, map);
		fd = bpf_obj_get(path);
		if (fd < 0)
			return "a map is missing";
		same = same_shape(fd, map);
		close(fd);
		if (!same)
			return "a map has another size";
	}
	return NULL;
}

/* Is anything of a process before there? */
static bool has_pins(const struct marker_pins *p)
{
	DIR *dir = opendir(p->directory);
	const struct dirent *entry;
	bool found = false;

	while (dir && !found && (entry = readdir(dir)))
		found = strcmp(entry->d_name, layout_name) == 0 || strncmp(entry->d_name, "map_", 4) == 0;
	if (dir)
		closedir(dir);
	return found;
}

bool marker_pins_reuse(const struct marker_pins *p, struct bpf_object *object)
{
	const char *reason;
	struct bpf_map *map;
	pin_path path;

	if (!p->on || !has_pins(p))
		return false;
	reason = why_not(p, object);
	if (reason) {
		log_info("marker: the pinned maps in %s are rebuilt: %s", p->directory, reason);
		return false;
	}
	bpf_object__for_each_map(map, object)
	{
		int fd, r;

		if (!map_is_kept(map))
			continue;
		map_path(p, path, map);
		fd = bpf_obj_get(path);
		r = fd < 0 ? fd : bpf_map__reuse_fd(map, fd);
		if (fd >= 0)
			close(fd); /* libbpf has its own */
		if (r < 0) {
			log_warn("marker: %s: cannot be used: %s", path, strerror(-r));
			return false;
		}
	}
	return true;
}

uint32_t marker_pins_capacity_of(int fd)
{
	struct bpf_map_info info = {0};
	uint32_t size = sizeof(info);

	if (bpf_obj_get_info_by_fd(fd, &info, &size) < 0)
		return 0;
	/* One element, or some. */
	return marker_flows_capacity(info.max_entries * (info.value_size / MARKER_ENTRY_SIZE));
}

uint32_t marker_pins_capacity(const struct marker_pins *p)
{
	uint32_t capacity;
	pin_path path;
	int fd;

	if (!p->on)
		return 0;
	path_of(p, path, "map_flows");
	fd = bpf_obj_get(path);
	if (fd < 0)
		return 0;
	capacity = marker_pins_capacity_of(fd);
	close(fd);
	return capacity;
}

void marker_pins_map(const struct marker_pins *p, const struct bpf_map *map)
{
	pin_path path, fresh;
	int r;

	if (!p->on)
		return;
	map_path(p, path, map);
	path_of(p, fresh, "map_new");
	unlink(fresh);
	r = bpf_obj_pin(bpf_map__fd(map), fresh);
	if (r == 0 && rename(fresh, path) < 0)
		r = -errno;
	if (r < 0)
		log_warn("marker: cannot pin %s: %s", path, strerror(-r));
}

void marker_pins_maps(const struct marker_pins *p, const struct bpf_object *object)
{
	char layout[16];
	const struct bpf_map *map;
	pin_path path;

	if (!p->on)
		return;
	bpf_object__for_each_map(map, object)
	{
		if (map_is_kept(map))
			marker_pins_map(p, map);
	}
	path_of(p, path, layout_name);
	snprintf(layout, sizeof(layout), "%d", MARKER_PINS_LAYOUT);
	write_text(path, layout);
}

/* -- links and filters --------------------------------------------------------------- */

int marker_pins_link(const struct marker_pins *p, int ifindex)
{
	uint32_t program;
	pin_path path;
	int fd, at;

	if (!p->on)
		return -ENOENT;
	path_of_interface(p, path, "link", ifindex);
	fd = bpf_obj_get(path);
	if (fd < 0)
		return -ENOENT;
	if (marker_link_info(fd, &at, &program) == 0 && at == ifindex)
		return fd;
	/* Of an interface that had this number before. */
	close(fd);
	unlink(path);
	return -ENOENT;
}

void marker_pins_add_link(const struct marker_pins *p, int ifindex, int fd)
{
	pin_path path;
	int r;

	if (!p->on)
		return;
	path_of_interface(p, path, "link", ifindex);
	unlink(path);
	r = bpf_obj_pin(fd, path);
	if (r < 0)
		log_warn("marker: cannot pin %s: %s", path, strerror(-r));
}

void marker_pins_remove_link(const struct marker_pins *p, int ifindex)
{
	pin_path path;

	if (!p->on)
		return;
	path_of_interface(p, path, "link", ifindex);
	unlink(path);
}

bool marker_pins_filter(const struct marker_pins *p, int ifindex, bool *qdisc_is_ours)
{
	char text[16];
	pin_path path;

	*qdisc_is_ours = false;
	if (!p->on)
		return false;
	path_of_interface(p, path, "filter", ifindex);
	if (!read_text(path, text, sizeof(text)))
		return false;
	*qdisc_is_ours = strcmp(text, "made") == 0;
	return true;
}

void marker_pins_add_filter(const struct marker_pins *p, int ifindex, bool qdisc_is_ours)
{
	pin_path path;

	if (!p->on)
		return;
	path_of_interface(p, path, "filter", ifindex);
	write_text(path, qdisc_is_ours ? "made" : "found");
}

void marker_pins_remove_filter(const struct marker_pins *p, int ifindex)
{
	pin_path path;

	if (!p->on)
		return;
	path_of_interface(p, path, "filter", ifindex);
	unlink(path);
}

/* -- removal ------------------------------------------------------------------------- */

static void remove_link(const char *path)
{
	uint32_t program;
	int fd = bpf_obj_get(path), at;

	if (fd >= 0) {
		/* At once, though another process may have it open. */
		if (marker_link_info(fd, &at, &program) == 0 && at != 0)
			bpf_link_detach(fd);
		close(fd);
	}
	unlink(path);
}

static void remove_filter(const struct marker_pins *p, const char *path, unsigned int netns, int ifindex)
{
	bool qdisc_is_ours;

	if (netns == p->netns) {
		marker_pins_filter(p, ifindex, &qdisc_is_ours);
		marker_link_detach_filter(ifindex, qdisc_is_ours);
	} else {
		log_warn("marker: a clsact filter may be left at interface %d of another network namespace "
			 "(inode %u)",
			 ifindex, netns);
	}
	unlink(path);
}

static bool is_wanted(const struct marker_link *links, uint32_t count, int method, int ifindex)
{
	for (uint32_t i = 0; i < count; i++) {
		if (links[i].ifindex == ifindex && links[i].method == method)
			return true;
	}
	return false;
}

void marker_pins_sweep(const struct marker_pins *p, const struct marker_link *links, uint32_t count)
{
	const struct dirent *entry;
	DIR *dir = p->on ? opendir(p->directory) : NULL;

	while (dir && (entry = readdir(dir))) {
		unsigned int netns;
		pin_path path;
		int ifindex;

		path_of(p, path, entry->d_name);
		if (sscanf(entry->d_name, "link_%u_%d", &netns, &ifindex) == 2) {
			if (netns == p->netns && !is_wanted(links, count, MARKER_TCX, ifindex))
				remove_link(path);
		} else if (sscanf(entry->d_name, "filter_%u_%d", &netns, &ifindex) == 2) {
			if (netns == p->netns && !is_wanted(links, count, MARKER_CLSACT, ifindex))
				remove_filter(p, path, netns, ifindex);
		}
	}
	if (dir)
		closedir(dir);
}

int marker_pins_remove(const struct marker_pins *p)
{
	const struct dirent *entry;
	bool others = false;
	DIR *dir;

	if (!p->on)
		return 0;
	dir = opendir(p->directory);
	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		unsigned int netns;
		pin_path path;
		int ifindex;

		path_of(p, path, entry->d_name);
		if (sscanf(entry->d_name, "link_%u_%d", &netns, &ifindex) == 2)
			remove_link(path);
		else if (sscanf(entry->d_name, "filter_%u_%d", &netns, &ifindex) == 2)
			remove_filter(p, path, netns, ifindex);
		else if (strncmp(entry->d_name, "map_", 4) == 0 || strcmp(entry->d_name, layout_name) == 0)
			unlink(path);
		else if (entry->d_name[0] != '.')
			others = true;
	}
	closedir(dir);
	if (marker_pins_is_descriptor(p->directory))
		return others ? -ENOTEMPTY : 0;
	return rmdir(p->directory) < 0 ? -errno : 0;
}

int marker_pins_clean(const char *directory)
{
	struct marker_pins p = {.on = true, .netns = own_netns()};

	if (strlen(directory) >= sizeof(p.directory))
		return -ENAMETOOLONG;
	snprintf(p.directory, sizeof(p.directory), "%s", directory);
	return marker_pins_is_bpf_fs(directory) ? marker_pins_remove(&p) : -ENOENT;
}
