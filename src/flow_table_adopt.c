/* SPDX-License-Identifier: Apache-2.0 */
/* flow_table_adopt.c - flows that a process left in the state file when it was killed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "flow_table_internal.h"
#include "label.h"
#include "log.h"

/* Clocks are set back; more than a day ahead is damage. */
#define AHEAD_US 86400000000ULL
#define ID_MAX	 (UINT64_MAX >> 2)

_Static_assert(sizeof(struct flow_slot) == 192, "three cache lines");
_Static_assert(sizeof(struct flow_key) == 40, "five words");

static bool key_valid(const struct flow_key *key)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	bool is_mapped = memcmp(key->src.octet, mapped, sizeof(mapped)) == 0;

	if (is_mapped != (memcmp(key->dst.octet, mapped, sizeof(mapped)) == 0))
		return false;
	return (key->protocol == FLOW_TCP || key->protocol == FLOW_UDP) &&
	       key->family == (is_mapped ? 4 : 6) && key->zero == 0;
}

static bool application_valid(const char *text)
{
	size_t len = strnlen(text, FLOW_APPLICATION_SIZE);

	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			return false;
	}
	return len < FLOW_APPLICATION_SIZE;
}

/* Could flow_table_commit() have written this? */
static bool slot_valid(const struct flow_slot *f, uint64_t now)
{
	return f->id > 0 && f->id <= ID_MAX && key_valid(&f->key) && f->route >= 0 && f->experiment >= 1 &&
	       f->experiment <= FLOW_EXPERIMENT_MAX && f->activity >= 1 && f->activity <= FLOW_ACTIVITY_MAX &&
	       f->label <= LABEL_MASK && label_experiment(f->label) == f->experiment &&
	       label_activity(f->label) == f->activity && f->start_us > 0 && f->start_us <= now + AHEAD_US &&
	       f->seen_us <= now + AHEAD_US && f->source < STATE_NAMES_MAX &&
	       application_valid(f->application);
}

/* Will input be read again whose events were committed already? */
struct replay {
	bool expected;
	bool last_done; /* but not that of the last batch: some input was consumed after it */
};

static struct replay expect_replay(struct state *s)
{
	uint64_t batch = state_header(s)->batch;
	bool pending = false, careful = false;
	struct replay replay = {false, false};

	for (uint32_t i = 0; i < STATE_INPUTS_MAX; i++) {
		const struct state_input *in = state_input_at(s, i);

		if (!in)
			continue;
		if (in->batch == batch)
			replay.last_done = true;
		if (in->consumed < in->length)
			pending = true;
		/* What an earlier process had in hand is not through yet, though its lines go one by one. */
		if (in->careful > in->consumed)
			careful = true;
	}
	replay.expected = careful || (pending && !replay.last_done);
	return replay;
}

static int queue(struct flow_table *t, uint32_t slot)
{
	/* Doubles at powers of two. */
	if ((t->replay_count & (t->replay_count - 1)) == 0) {
		size_t room = t->replay_count ? 2 * (size_t)t->replay_count : 1;
		uint32_t *more = realloc(t->replay, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		t->replay = more;
	}
	t->replay[t->replay_count++] = slot;
	return 0;
}

/* A flow that had ended. */
static int adopt_ended(struct flow_table *t, uint32_t slot, const struct replay *replay)
{
	struct flow_slot *f = &t->slots[slot];
	bool in_last = f->commit == FLOW_SLOT_ENDED && f->ended_batch == (uint32_t)t->header->batch;

	if (replay->expected && !(replay->last_done && in_last)) {
		f->commit = FLOW_SLOT_ENDED;
		return queue(t, slot);
	}
	flow_table_push_free(t, slot);
	return 0;
}

/* Two open flows of one 5-tuple: the batch in hand had the end of the older and the start
 * of the newer. */
static int adopt_open(struct flow_table *t, uint32_t slot, const struct replay *replay)
{
	struct flow_slot *f = &t->slots[slot];
	struct flow_index_entry *entry = flow_index_find(&t->index, t->slots, &f->key, f->hash);
	uint32_t older;

	if (!entry) {
		flow_index_insert(&t->index, f->hash, slot);
		t->live++;
		return 0;
	}
	older = entry->slot - 1;
	if (t->slots[older].id < f->id)
		entry->slot = slot + 1;
	else
		older = slot;
	if (!replay->expected)
		t->duplicate->value++;
	return adopt_ended(t, older, replay);
}

static int adopt_slot(struct flow_table *t, uint32_t slot, uint64_t now, const struct replay *replay)
{
	struct flow_slot *f = &t->slots[slot];

	if (f->commit == FLOW_SLOT_FREE) {
		flow_table_push_free(t, slot);
		return 0;
	}
	if ((f->commit != FLOW_SLOT_OPEN && f->commit != FLOW_SLOT_ENDED) || !slot_valid(f, now)) {
		t->damaged->value++;
		memset(f, 0, sizeof(*f));
		flow_table_push_free(t, slot);
		return 0;
	}
	f->phase = 0;
	f->hash = flow_index_hash(&t->index, &f->key);
	if (t->header->sequence < f->id)
		t->header->sequence = f->id;
	return f->commit == FLOW_SLOT_OPEN ? adopt_open(t, slot, replay) : adopt_ended(t, slot, replay);
}

/* Where flows that ended wait for the replay, the open flow of the same 5-tuple waits behind
 * them: the replay begins with the oldest. */
static int queue_successors(struct flow_table *t)
{
	uint32_t ended = t->replay_count;

	for (uint32_t i = 0; i < ended; i++) {
		const struct flow_slot *f = &t->slots[t->replay[i]];
		struct flow_index_entry *entry = flow_index_find(&t->index, t->slots, &f->key, f->hash);
		uint32_t slot;
		int error;

		if (!entry)
			continue;
		slot = entry->slot - 1;
		flow_index_remove(&t->index, f->hash, slot);
		error = queue(t, slot);
		if (error)
			return error;
	}
	return 0;
}

static int compare_ids(const void *a, const void *b, void *table)
{
	const struct flow_slot *slots = ((struct flow_table *)table)->slots;
	uint64_t x = slots[*(const uint32_t *)a].id;
	uint64_t y = slots[*(const uint32_t *)b].id;

	return x < y ? -1 : x > y;
}

/* Where the used slots end. Those behind slots_used are free, unless that field is damaged. */
static uint32_t used_slots(const struct flow_table *t)
{
	uint32_t end = t->header->slots_reserved;

	while (end > t->header->slots_used && t->slots[end - 1].commit == FLOW_SLOT_FREE)
		end--;
	return end;
}

int flow_table_adopt(struct flow_table *t)
{
	uint64_t damaged = t->damaged->value;
	uint64_t now = clock_realtime_us();
	struct replay replay = expect_replay(t->state);
	int error = 0;

	if (t->header->sequence > ID_MAX)
		t->header->sequence = 0;
	t->header->slots_used = used_slots(t);
	/* Downward: the lowest free slots are used first. */
	for (uint32_t i = t->header->slots_used; i-- > 0 && !error;)
		error = adopt_slot(t, i, now, &replay);
	if (!error)
		error = queue_successors(t);
	if (error)
		return error;
	if (t->replay_count)
		qsort_r(t->replay, t->replay_count, sizeof(*t->replay), compare_ids, t);
	t->adopted->value += t->live;
	if (t->live)
		log_info("flow table: %u open flows taken over", t->live);
	if (t->damaged->value > damaged)
		log_warn("flow table: %llu flows in the state file are damaged and given up",
			 (unsigned long long)(t->damaged->value - damaged));
	return 0;
}

int32_t flow_table_replayed(struct flow_table *t, const struct flow_key *key, uint32_t hash)
{
	for (uint32_t i = 0; i < t->replay_count; i++) {
		uint32_t slot = t->replay[i];
		struct flow_slot *f = &t->slots[slot];

		if (f->hash != hash || !flow_key_equal(&f->key, key))
			continue;
		memmove(&t->replay[i], &t->replay[i + 1], (t->replay_count - i - 1) * sizeof(*t->replay));
		t->replay_count--;
		if (f->commit == FLOW_SLOT_ENDED)
			t->live++;
		f->commit = FLOW_SLOT_OPEN;
		return (int32_t)slot;
	}
	return FLOW_SLOT_NONE;
}

void flow_table_settle(struct flow_table *t)
{
	for (uint32_t i = 0; i < t->replay_count; i++) {
		uint32_t slot = t->replay[i];
		const struct flow_slot *f = &t->slots[slot];

		if (f->commit == FLOW_SLOT_OPEN) {
			if (!flow_index_find(&t->index, t->slots, &f->key, f->hash)) {
				flow_index_insert(&t->index, f->hash, slot);
				continue;
			}
			t->duplicate->value++;
			t->live--;
		}
		flow_table_push_free(t, slot);
	}
	free(t->replay);
	t->replay = NULL;
	t->replay_count = 0;
	t->gauge_open->value = t->live;
}
