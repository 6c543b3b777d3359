/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_table_index.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/random.h>

int flow_index_open(struct flow_index *ix, uint32_t flows)
{
	ix->size = 2 * flows;
	ix->used = 0;
	ix->entry = mmap(NULL, flow_index_memory(ix), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ix->entry == MAP_FAILED) {
		ix->entry = NULL;
		return -errno;
	}
	/* A flow touches two or three pages of it: huge ones would make an idle daemon large, and
	 * with a million flows they were not measurably faster. */
	madvise(ix->entry, flow_index_memory(ix), MADV_NOHUGEPAGE);
	if (getrandom(ix->seed, sizeof(ix->seed), 0) != (ssize_t)sizeof(ix->seed)) {
		flow_index_close(ix);
		return -EIO;
	}
	return 0;
}

void flow_index_close(struct flow_index *ix)
{
	if (ix->entry)
		munmap(ix->entry, flow_index_memory(ix));
	ix->entry = NULL;
}

size_t flow_index_memory(const struct flow_index *ix)
{
	return (size_t)ix->size * sizeof(struct flow_index_entry);
}

void flow_index_insert(struct flow_index *ix, uint32_t hash, uint32_t slot)
{
	uint32_t i = flow_index_home(ix, hash);

	while (ix->entry[i].slot) {
		if (++i == ix->size)
			i = 0;
	}
	ix->entry[i] = (struct flow_index_entry){.hash = hash, .slot = slot + 1};
	ix->used++;
}

/* How far position i lies behind position `from`, round the end. */
static uint32_t distance(const struct flow_index *ix, uint32_t from, uint32_t i)
{
	return i >= from ? i - from : i + ix->size - from;
}

void flow_index_remove(struct flow_index *ix, uint32_t hash, uint32_t slot)
{
	uint32_t hole = flow_index_home(ix, hash);
	uint32_t i;

	while (ix->entry[hole].slot != slot + 1) {
		if (!ix->entry[hole].slot)
			return;
		if (++hole == ix->size)
			hole = 0;
	}
	/* Entries behind the hole move into it when their search begins at or before it. */
	for (i = hole;;) {
		if (++i == ix->size)
			i = 0;
		if (!ix->entry[i].slot)
			break;
		if (distance(ix, flow_index_home(ix, ix->entry[i].hash), i) >= distance(ix, hole, i)) {
			ix->entry[hole] = ix->entry[i];
			hole = i;
		}
	}
	ix->entry[hole].slot = 0;
	ix->used--;
}
