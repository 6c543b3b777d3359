/* SPDX-License-Identifier: Apache-2.0 */
#include "marker_tables.h"

#include <bpf/libbpf.h>

#include "marker_internal.h"
#include "marker_kernel.h"

/* The verifier takes offsets below 2^29, in what is one element. */
enum { FLAT_CAPACITY_MAX = (1 << 29) / MARKER_ENTRY_SIZE };

bool marker_tables_flat(uint32_t capacity, bool known)
{
	return known && capacity <= FLAT_CAPACITY_MAX;
}

/* A map of `count` elements, or of one that is as large. 0 or -errno. */
static int set_size(struct bpf_map *map, uint32_t count, uint32_t size, bool flat)
{
	int r = bpf_map__set_max_entries(map, flat ? 1 : count);

	return r < 0 ? r : bpf_map__set_value_size(map, flat ? count * size : size);
}

static uint32_t power_of_two(uint32_t number)
{
	uint32_t power = 1;

	while (power < number)
		power *= 2;
	return power;
}

int marker_tables_prepare(struct bpf_map *cpus, struct bpf_map *flows, uint32_t count, uint32_t capacity,
			  bool known)
{
	struct marker_kernel_load load = {
		.known = known,
		.cpus = cpus,
		.flows = flows,
		.cpus_flat = known ? power_of_two(count) : 0,
		.flows_flat = marker_tables_flat(capacity, known) ? capacity : 0,
	};
	int r = set_size(cpus, load.cpus_flat ? load.cpus_flat : count, sizeof(struct marker_cpu),
			 load.cpus_flat);

	marker_kernel_set(&load);
	return r < 0 ? r
		     : set_size(flows, marker_flows_elements(capacity), MARKER_ENTRY_SIZE, load.flows_flat);
}

void marker_tables_prepared(void)
{
	marker_kernel_set(&(struct marker_kernel_load){0});
}
