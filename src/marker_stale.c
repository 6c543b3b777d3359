/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marker_stale.c - marks that an earlier process left: those of flows that are still open are
 * claimed one by one, without a change to them; the rest is removed.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "marker_internal.h"

struct marker_stale {
	struct flow_key *keys;
	uint32_t *labels;
	uint32_t *index; /* open addressing: 1 + number of a mark */
	uint32_t index_mask;
	bool *taken;
	uint32_t count, room;
};

static int reserve(struct marker_stale *s, uint32_t more)
{
	uint32_t room = s->count + more;
	void *keys, *labels;

	if (room <= s->room)
		return 0;
	room += room / 2;
	keys = realloc(s->keys, room * sizeof(*s->keys));
	if (keys)
		s->keys = keys;
	labels = realloc(s->labels, room * sizeof(*s->labels));
	if (labels)
		s->labels = labels;
	if (!keys || !labels)
		return -ENOMEM;
	s->room = room;
	return 0;
}

static int read_hash(struct marker_stale *s, int fd)
{
	uint64_t position;
	bool begun = false;
	int r;

	do {
		uint32_t count = MARKER_CHANGES_MAX;

		r = reserve(s, count);
		if (r < 0)
			return r;
		r = bpf_map_lookup_batch(fd, begun ? &position : NULL, &position, s->keys + s->count,
					 s->labels + s->count, &count, NULL);
		if (r < 0 && r != -ENOENT)
			return r;
		begun = true;
		s->count += count;
	} while (r == 0);
	return 0;
}

static int build_index(struct marker_stale *s)
{
	uint32_t size = 64;

	while (size < 2 * s->count)
		size *= 2;
	s->index_mask = size - 1;
	s->index = calloc(size, sizeof(*s->index));
	s->taken = calloc(s->count + 1, sizeof(*s->taken));
	if (!s->index || !s->taken)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->count; i++) {
		uint32_t at = marker_key_hash(&s->keys[i]);

		while (s->index[at & s->index_mask] != 0)
			at++;
		s->index[at & s->index_mask] = i + 1;
	}
	return 0;
}

int marker_stale_read(struct marker_stale **out, int fd)
{
	struct marker_stale *s = calloc(1, sizeof(*s));
	int r = s ? read_hash(s, fd) : -ENOMEM;

	if (r == 0)
		r = build_index(s);
	if (r == 0)
		*out = s;
	else
		marker_stale_free(s);
	return r;
}

bool marker_stale_take(struct marker_stale *s, const struct flow_key *key, uint32_t label)
{
	for (uint32_t at = marker_key_hash(key);; at++) {
		uint32_t number = s->index[at & s->index_mask];

		if (number == 0)
			return false;
		if (memcmp(&s->keys[number - 1], key, sizeof(*key)) != 0)
			continue;
		/* Another label: it is set as for a new flow, in the place of this one. */
		s->taken[number - 1] = true;
		return s->labels[number - 1] == label;
	}
}

uint64_t marker_stale_remove(const struct marker_stale *s, int fd)
{
	uint64_t removed = 0;

	for (uint32_t i = 0; i < s->count; i++) {
		int r = s->taken[i] ? -ENOENT : bpf_map_delete_elem(fd, &s->keys[i]);

		if (r < 0 && r != -ENOENT)
			log_error("marker: cannot remove a mark of a flow that is not open any more: %s",
				  strerror(-r));
		removed += r == 0;
	}
	return removed;
}

void marker_stale_free(struct marker_stale *s)
{
	if (!s)
		return;
	free(s->keys);
	free(s->labels);
	free(s->index);
	free(s->taken);
	free(s);
}
