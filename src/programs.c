/* SPDX-License-Identifier: Apache-2.0 */
#include "programs.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "marker_flows.h"
#include "marker_kernel.h"
#include "marker_tables.h"
#include "privileges.h"
#include "programs_list.h"

static void note_size(struct program_trial *out, int fd)
{
	struct bpf_prog_info info;
	uint32_t size = sizeof(info);

	memset(&info, 0, sizeof(info));
	if (bpf_obj_get_info_by_fd(fd, &info, &size) != 0)
		return;
	out->instructions = info.xlated_prog_len / 8;
	out->verified = info.verified_insns;
	out->machine_code = info.jited_prog_len;
}

/* With the tables of the marking programs, as the daemon has them on this kernel; another object has none. */
static int prepare_tables(struct bpf_object *object)
{
	struct bpf_map *cpus = bpf_object__find_map_by_name(object, "cpus");
	struct bpf_map *flows = bpf_object__find_map_by_name(object, "flows");
	bool known = marker_kernel_use() == 0 && privileges_missing(PRIVILEGE_PERFMON) == 0;
	int count = libbpf_num_possible_cpus();

	if (!cpus || !flows)
		return 0;
	return count < 0 ? count
			 : marker_tables_prepare(cpus, flows, (uint32_t)count, MARKER_CAPACITY_MIN, known);
}

/* Load `wanted` without its neighbours. */
static int load_alone(struct bpf_object *object, struct bpf_program *wanted, struct program_trial *out)
{
	struct bpf_program *program = NULL;
	int r = prepare_tables(object);

	while ((program = bpf_object__next_program(object, program)))
		bpf_program__set_autoload(program, program == wanted);
	if (r == 0)
		r = bpf_object__load(object);
	marker_tables_prepared();
	if (r == 0)
		note_size(out, bpf_program__fd(wanted));
	return r;
}

/* Try program `number` of an object; -ENOENT, and how many it has taken off, when it has fewer. */
static int try_object(const struct programs_object *entry, uint32_t *number, struct program_trial *out)
{
	struct bpf_object_open_opts options = {.sz = sizeof(options), .object_name = entry->name};
	struct bpf_object *object;
	struct bpf_program *program = NULL;
	size_t size;
	const void *elf = entry->elf(&size);
	int r = -ENOENT;

	object = bpf_object__open_mem(elf, size, &options);
	if (!object)
		return -errno;
	while ((program = bpf_object__next_program(object, program))) {
		if ((*number)-- > 0)
			continue;
		snprintf(out->object, sizeof(out->object), "%s", entry->name);
		snprintf(out->program, sizeof(out->program), "%s", bpf_program__name(program));
		out->error = load_alone(object, program, out);
		r = 0;
		break;
	}
	bpf_object__close(object);
	return r;
}

int programs_try(uint32_t number, struct program_trial *out)
{
	int r = -ENOENT;

	memset(out, 0, sizeof(*out));
	for (const struct programs_object *entry = programs_list; entry->name && r == -ENOENT; entry++)
		r = try_object(entry, &number, out);
	return r;
}
