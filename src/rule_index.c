// SPDX-License-Identifier: Apache-2.0
/* rule_index.c - events through an index: which rules match, in order, and what they do. */
#include <string.h>

#include "rule_index_internal.h"

/* How many events ahead sets are asked for: long enough for them to come. */
#define AHEAD 4u

#define RULE_SETS_CHANGEABLE (RULE_SETS_EXPERIMENT | RULE_SETS_ACTIVITY | RULE_SETS_APPLICATION)

/* ---- looking up ------------------------------------------------------------- */

static inline uint32_t address_set(const struct rule_index *x, uint32_t which, const struct flow_address *a)
{
	uint32_t value = prefix_map_find(x->prefixes[which], a);

	return value ? x->prefix_set[which][value - 1] : x->prefix_other[which];
}

/* The set of a field that rules do not change. */
static inline uint32_t staying_set(const struct rule_index *x, uint32_t axis, const struct flow_event *e)
{
	switch (axis) {
	case AXIS_KIND:
		return x->kind[kind_of(e->key.protocol, e->key.family, e->state)];
	case AXIS_PLUGIN:
		return x->plugin[e->source < PLUGINS ? e->source : 0];
	case AXIS_SRC_PORT:
		return port_set(x->port[0], e->key.src_port);
	case AXIS_DST_PORT:
		return port_set(x->port[1], e->key.dst_port);
	case AXIS_SRC:
		return address_set(x, 0, &e->key.src);
	default:
		return address_set(x, 1, &e->key.dst);
	}
}

/* The longest start that the text has, unless the whole text is there. */
static uint32_t application_set(const struct rule_index *x, const char *text)
{
	uint64_t hash = TEXT_HASH_SEED;
	uint32_t set = x->text_other;
	uint32_t n = 0;

	for (;; n++) {
		if (x->start_lengths >> n & 1) {
			const struct text_entry *t = &x->texts_table[text_place(x, hash, text, n, true)];

			if (t->used)
				set = t->set;
		}
		if (n == FLOW_APPLICATION_SIZE - 1 || text[n] == '\0')
			break;
		hash = text_hash(hash, text[n]);
	}
	const struct text_entry *whole = &x->texts_table[text_place(x, hash, text, n, false)];

	return whole->used ? whole->set : set;
}

static inline uint32_t changeable_set(const struct rule_index *x, uint32_t axis, const struct flow_event *e)
{
	switch (axis) {
	case AXIS_EXPERIMENT:
		return x->experiment[e->experiment & (EXPERIMENTS - 1)];
	case AXIS_ACTIVITY:
		return x->activity[(e->experiment & (EXPERIMENTS - 1)) * ACTIVITIES +
				   (e->activity & (ACTIVITIES - 1))];
	default:
		return application_set(x, e->application);
	}
}

/* ---- late tests ---------------------------------------------------------------- */

static bool late_value(const struct flow_event *e, uint32_t field, uint64_t *value)
{
	switch (field) {
	case RULE_TIME:
		*value = e->time_us;
		return true;
	case RULE_START_TIME:
		*value = e->start_us;
		return true;
	case RULE_END_TIME:
		*value = e->time_us;
		return e->state == FLOW_END;
	case RULE_DURATION:
		*value = e->time_us > e->start_us ? e->time_us - e->start_us : 0;
		return true;
	case RULE_BYTES_SENT:
		*value = e->bytes_sent;
		return e->flags & EVENT_HAS_BYTES;
	default:
		*value = e->bytes_received;
		return e->flags & EVENT_HAS_BYTES;
	}
}

static bool late_test(const struct late_test *t, const struct flow_event *e)
{
	uint64_t value;

	if (t->set)
		return prefix_map_find(t->set, t->field == RULE_SRC ? &e->key.src : &e->key.dst) != 0;
	return late_value(e, t->field, &value) && value >= t->first && value <= t->last;
}

/* One test of each field must hold. */
static bool late_tests(const struct rule_index *x, const struct indexed_rule *rule,
		       const struct flow_event *e)
{
	const struct late_test *t = &x->late[rule->late];
	uint32_t i = 0;

	while (i < rule->late_count) {
		uint32_t field = t[i].field;
		bool holds = false;

		for (; i < rule->late_count && t[i].field == field; i++)
			holds = holds || late_test(&t[i], e);
		if (!holds)
			return false;
	}
	return true;
}

/* ---- rules that match ------------------------------------------------------------ */

/* Note the rules that match the event as it is now, but for their late tests. Returns their runs. */
static uint32_t note_rules(const struct rule_index *x, struct found *f, const struct flow_event *e)
{
	uint64_t words = f->words;
	uint32_t runs = 0, count = 0;

	for (uint32_t k = x->staying; k < x->axes; k++) {
		f->set[k] = changeable_set(x, x->axis[k], e);
		words |= x->summary[f->set[k]];
	}
	for (; words; words &= words - 1) {
		uint32_t word = (uint32_t)__builtin_ctzll(words);
		uint64_t left = set_words(x, x->enabled)[word];

		for (uint32_t k = 0; k < x->axes; k++)
			left &= set_words(x, f->set[k])[word];
		for (; left; left &= left - 1) {
			uint32_t rule = word * 64 + (uint32_t)__builtin_ctzll(left);

			if (count < FOUND_MAX)
				f->rule[count] = (uint16_t)rule;
			count++;
			runs |= 1u << x->briefs[rule].run;
			/* Soon it acts. */
			__builtin_prefetch(&x->rules[rule]);
			__builtin_prefetch(x->briefs[rule].hits, 1);
		}
	}
	f->count = (uint16_t)(count > FOUND_MAX ? FOUND_MANY : count);
	return runs;
}

/* The event was changed. Another index may have rules for it too: then it is asked in any case. */
static inline void note_again(const struct rule_index *x, struct found *f, struct flow_event *e)
{
	uint32_t runs = note_rules(x, f, e);

	e->runs = (uint16_t)(x->alone ? runs : RULE_RUNS_ALL);
}

/* The sets of the fields that stay, and word to the memory that they are wanted soon. */
static inline void find_sets(const struct rule_index *x, struct found *f, const struct flow_event *e)
{
	uint64_t words = x->always;

	for (uint32_t k = 0; k < x->staying; k++) {
		f->set[k] = staying_set(x, x->axis[k], e);
		words |= x->summary[f->set[k]];
	}
	f->words = words;
	if (words) {
		uint32_t word = (uint32_t)__builtin_ctzll(words);

		for (uint32_t k = 0; k < x->staying; k++)
			__builtin_prefetch(set_words(x, f->set[k]) + word);
	}
}

void rule_index_begin(struct rule_index *x, struct flow_event *events, uint32_t count, bool first, bool alone)
{
	x->events = events;
	x->alone = alone;
	for (uint32_t i = 0; i < count + AHEAD; i++) {
		struct flow_event *e = &events[i - AHEAD];
		uint32_t runs;

		if (i < count && !(events[i].flags & (EVENT_DECIDED | EVENT_DROPPED)))
			find_sets(x, &x->found[i], &events[i]);
		if (i < AHEAD || e->flags & (EVENT_DECIDED | EVENT_DROPPED))
			continue;
		runs = note_rules(x, &x->found[i - AHEAD], e);
		e->runs = (uint16_t)(first ? runs : e->runs | runs);
	}
}

/* ---- running ---------------------------------------------------------------------- */

/* True: that ended the event's rules. */
static inline bool act(const struct rule_effect *r, struct flow_event *e)
{
	r->hits->value++;
	e->rule = r->number;
	if (r->what & RULE_SETS_EXPERIMENT)
		e->experiment = r->experiment;
	if (r->what & RULE_SETS_ACTIVITY)
		e->activity = r->activity;
	if (r->what & RULE_SETS_ROUTE)
		e->route = r->route;
	if (r->what & RULE_SETS_APPLICATION)
		memcpy(e->application, r->application, sizeof(e->application));
	if (r->what & RULE_DROPS)
		e->flags |= EVENT_DROPPED;
	return r->what & (RULE_DROPS | RULE_ACCEPTS);
}

/* The first rule from `first` to `last` that matches but for its late tests, or `last` + 1: where there are
 * more than were noted. */
static uint32_t search(const struct rule_index *x, const struct found *f, uint32_t first, uint32_t last)
{
	for (uint32_t word = first / 64; word <= last / 64; word++) {
		uint64_t bits = set_words(x, x->enabled)[word];

		if (word == first / 64)
			bits &= ~0ULL << first % 64;
		if (word == last / 64)
			bits &= ~0ULL >> (63 - last % 64);
		for (uint32_t k = 0; k < x->axes; k++)
			bits &= set_words(x, f->set[k])[word];
		if (bits)
			return word * 64 + (uint32_t)__builtin_ctzll(bits);
	}
	return last + 1;
}

/* The same among those that were noted. */
static inline uint32_t next_noted(const struct found *f, uint32_t first, uint32_t last)
{
	for (uint32_t i = 0; i < f->count; i++) {
		if (f->rule[i] >= first)
			return f->rule[i];
	}
	return last + 1;
}

int32_t rule_index_run(struct rule_index *x, struct flow_event *e, uint32_t first, uint32_t last)
{
	struct found *f = &x->found[e - x->events];
	uint32_t rule = first;

	/* Somebody may have changed it: then e->runs says nothing any more. */
	if (e->runs == RULE_RUNS_ALL)
		note_again(x, f, e);
	while (rule <= last) {
		const struct indexed_rule *r;

		rule = f->count == FOUND_MANY ? search(x, f, rule, last) : next_noted(f, rule, last);
		if (rule > last)
			break;
		r = &x->rules[rule];
		rule++;
		if (r->late_count && !late_tests(x, r, e))
			continue;
		if (act(&r->effect, e))
			return 1;
		if (r->effect.what & x->tests)
			note_again(x, f, e);
		else if (!x->alone && r->effect.what & RULE_SETS_CHANGEABLE)
			e->runs = RULE_RUNS_ALL; /* the others may test it */
	}
	return 0;
}

void rule_index_switch(struct rule_index *x, uint32_t rule, bool on)
{
	uint64_t *word = x->pool + (size_t)x->enabled * x->words + rule / 64;

	if (rule >= x->count)
		return;
	if (on)
		*word |= 1ULL << rule % 64;
	else
		*word &= ~(1ULL << rule % 64);
}
