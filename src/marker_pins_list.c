/* SPDX-License-Identifier: Apache-2.0 */
/* marker_pins_list.c - what is pinned, read by another process than the daemon, or after it was killed. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "marker_internal.h"

static void describe_link(const char *path, struct marker_pin *pin)
{
	int fd = bpf_obj_get(path), at;

	pin->method = MARKER_TCX;
	if (fd < 0)
		return;
	if (marker_link_info(fd, &at, &pin->program) != 0 || at != pin->ifindex)
		pin->program = 0;
	close(fd);
}

/* Does an entry of the directory tell of an interface? */
static bool describe(const char *directory, const char *name, struct marker_pin *pin)
{
	char path[MARKER_PINS_PATH_SIZE];
	unsigned int netns;
	struct stat st;
	bool link;

	memset(pin, 0, sizeof(*pin));
	link = sscanf(name, "link_%u_%d", &netns, &pin->ifindex) == 2;
	if (!link && sscanf(name, "filter_%u_%d", &netns, &pin->ifindex) != 2)
		return false;
	pin->here = stat("/proc/self/ns/net", &st) == 0 && (unsigned int)st.st_ino == netns;
	if (pin->here && !if_indextoname((unsigned int)pin->ifindex, pin->name))
		pin->name[0] = '\0';
	if (link) {
		snprintf(path, sizeof(path), "%s/%s", directory, name);
		describe_link(path, pin);
	} else {
		pin->method = MARKER_CLSACT;
		pin->program = pin->here ? marker_link_filter(pin->ifindex) : 0;
	}
	return true;
}

int marker_pins_list(const char *directory, struct marker_pin *out, uint32_t max)
{
	const struct dirent *entry;
	DIR *dir = opendir(directory);
	uint32_t count = 0;

	if (!dir)
		return -errno;
	while (count < max && (entry = readdir(dir)))
		count += describe(directory, entry->d_name, &out[count]);
	closedir(dir);
	return (int)count;
}

int marker_filters_clean(void)
{
	struct if_nameindex *list = if_nameindex();
	int count = 0;

	if (!list)
		return -errno;
	for (const struct if_nameindex *i = list; i->if_index != 0; i++)
		count += marker_link_detach_filter((int)i->if_index, false) > 0;
	if_freenameindex(list);
	return count;
}

/* -- marks --------------------------------------------------------------------------- */

struct marker_marks {
	struct marker_flows flows;
	uint32_t next;
};

struct marker_marks *marker_marks_open(const char *directory)
{
	uint32_t capacity = 0;
	struct marker_marks *marks = calloc(1, sizeof(*marks));
	char path[MARKER_PINS_PATH_SIZE];
	int fd;

	snprintf(path, sizeof(path), "%s/map_flows", directory);
	fd = marks ? bpf_obj_get(path) : -1;
	if (fd >= 0)
		capacity = marker_pins_capacity_of(fd);
	/* The hash is not needed, nor its factor. */
	if (capacity == 0 || marker_flows_map(&marks->flows, fd, capacity, 0, false) < 0) {
		free(marks);
		marks = NULL;
	}
	if (fd >= 0)
		close(fd);
	return marks;
}

int marker_marks_read(struct marker_marks *marks, struct marker_mark *out, uint32_t max)
{
	uint32_t count = 0;

	while (count < max && marks->next < marks->flows.capacity)
		count += marker_flows_read(&marks->flows, marks->next++, &out[count]);
	return (int)count;
}

void marker_marks_close(struct marker_marks *marks)
{
	if (!marks)
		return;
	marker_flows_unmap(&marks->flows);
	free(marks);
}
