/* SPDX-License-Identifier: Apache-2.0 */
/* flow_table_sockets.c - flows by their local TCP sockets: which one a flow has, and whether it is gone. */
#include "clock.h"
#include "flow_table_internal.h"

/* A socket that is not there when its flow is this old will not come: the flow is forwarded, or another
 * network namespace's. */
#define LATE_US 10000000ULL

enum {
	QUESTIONS_MAX = 4 * SOCK_DIAG_BATCH,
	/* Of flows that have just begun: the rest waits for flow_table_record_sockets(). */
	YOUNG_BURST = 256,
	YOUNG_INTERVAL_US = 500, /* for each further one */
};

void flow_table_use_sockets(struct flow_table *t, struct sock_diag *d)
{
	t->diag = d;
}

static void question_about(struct sock_diag_question *q, const struct flow_slot *f, uint32_t slot)
{
	q->key = f->key;
	q->cookie = f->socket_cookie;
	q->slot = slot;
}

bool flow_table_socket_gone(const struct flow_table *t, const struct flow_slot *f)
{
	struct sock_diag_question q;

	if (!t->diag || f->socket_cookie == 0)
		return false;
	question_about(&q, f, 0);
	sock_diag_ask(t->diag, &q, 1);
	return q.answer == SOCK_DIAG_GONE;
}

/* Put questions about the open TCP flows from `*from` on that have (or have not) a recorded socket. `*from`
 * becomes the slot to go on with. */
static uint32_t collect(const struct flow_table *t, int32_t *from, uint32_t slots, uint64_t before_us,
			bool recorded, struct sock_diag_question *questions)
{
	uint32_t end = t->header->slots_used, slot = *from < 0 ? 0 : (uint32_t)*from;
	uint32_t count = 0;

	if (end > slot && end - slot > slots)
		end = slot + slots;
	for (; slot < end && count < QUESTIONS_MAX; slot++) {
		const struct flow_slot *f = &t->slots[slot];

		if (!flow_table_is_open(t, slot) || f->key.protocol != FLOW_TCP)
			continue;
		if (recorded ? f->socket_cookie != 0
			     : f->socket_cookie == 0 && !(f->phase & FLOW_PHASE_NO_SOCKET) &&
				       f->seen_us <= before_us)
			question_about(&questions[count++], f, slot);
	}
	*from = slot < t->header->slots_used ? (int32_t)slot : FLOW_SLOT_NONE;
	return count;
}

/* Write down a socket that was found. */
static bool record(struct flow_table *t, const struct sock_diag_question *q)
{
	if (q->answer != SOCK_DIAG_THERE)
		return false;
	t->slots[q->slot].socket_cookie = q->cookie;
	t->recorded->value++;
	return true;
}

/* How many of `wanted` questions may be put now? */
static uint32_t allow(struct flow_table *t, uint32_t wanted)
{
	uint64_t now = clock_monotonic_ns() / 1000, more = (now - t->young_us) / YOUNG_INTERVAL_US;

	if (more > 0) {
		t->young_allowance = more < YOUNG_BURST - t->young_allowance
					     ? t->young_allowance + (uint32_t)more
					     : YOUNG_BURST;
		t->young_us = now;
	}
	if (wanted > t->young_allowance)
		wanted = t->young_allowance;
	t->young_allowance -= wanted;
	return wanted;
}

void flow_table_record_young(struct flow_table *t)
{
	struct sock_diag_question questions[FLOW_TABLE_YOUNG];
	uint32_t allowed = allow(t, t->young_count), count = 0;

	for (uint32_t i = 0; i < allowed; i++) {
		uint32_t slot = t->young[i];

		if (flow_table_is_open(t, slot) && t->slots[slot].socket_cookie == 0)
			question_about(&questions[count++], &t->slots[slot], slot);
	}
	t->young_count = 0;
	if (!t->diag)
		return;
	sock_diag_ask(t->diag, questions, count);
	for (uint32_t i = 0; i < count; i++)
		record(t, &questions[i]);
}

int32_t flow_table_record_sockets(struct flow_table *t, int32_t from, uint32_t slots, uint64_t before_us)
{
	struct sock_diag_question questions[QUESTIONS_MAX];
	uint64_t now = clock_realtime_us();
	uint32_t count;

	if (!t->diag)
		return FLOW_SLOT_NONE;
	count = collect(t, &from, slots, before_us, false, questions);
	sock_diag_ask(t->diag, questions, count);
	for (uint32_t i = 0; i < count; i++) {
		struct flow_slot *f = &t->slots[questions[i].slot];

		if (!record(t, &questions[i]) && now > f->seen_us + LATE_US)
			f->phase |= FLOW_PHASE_NO_SOCKET;
	}
	return from;
}

int32_t flow_table_end_missed(struct flow_table *t, int32_t from, uint32_t slots, struct flow_batch *b)
{
	struct sock_diag_question questions[QUESTIONS_MAX];
	uint32_t count;

	flow_table_release(t, b);
	b->now_us = clock_realtime_us();
	b->count = 0;
	if (!t->diag)
		return FLOW_SLOT_NONE;
	count = collect(t, &from, slots, b->now_us, true, questions);
	sock_diag_ask(t->diag, questions, count);
	for (uint32_t i = 0; i < count; i++) {
		if (questions[i].answer == SOCK_DIAG_GONE)
			flow_table_end(t, questions[i].slot, b);
	}
	t->missed_restart->value += b->count;
	return from;
}

uint32_t flow_table_succeeded(struct flow_table *t, struct flow_batch *b)
{
	b->now_us = clock_realtime_us();
	b->count = 0;
	for (uint32_t i = 0; i < t->succeeded_count; i++)
		flow_table_append(b, &t->slots[t->succeeded[i]], t->succeeded[i], FLOW_END);
	t->succeeded_count = 0;
	return b->count;
}
