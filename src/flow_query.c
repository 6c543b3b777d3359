/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_query.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "flow_table_internal.h"

struct flow_query {
	const struct flow_table *table;
	uint32_t next; /* slot */
	uint32_t conditions_count;
	uint32_t sort;
	uint32_t group_by;
	uint32_t limit;
	uint32_t rows_count, rows_size;
	uint32_t sorted; /* rows at the end that are in place */
	bool descending, all, scanned, out_of_memory;
	struct flow_query_row *rows; /* a heap, the row that goes first on top; then in order */
	struct flow_query_sum *groups;
	struct flow_query_sum total;
	struct flow_query_condition condition[FLOW_QUERY_CONDITIONS_MAX];
};

struct flow_query *flow_query_new(const struct flow_table *t)
{
	struct flow_query *q = calloc(1, sizeof(*q));

	if (q)
		q->table = t;
	return q;
}

void flow_query_free(struct flow_query *q)
{
	if (!q)
		return;
	free(q->rows);
	free(q->groups);
	free(q);
}

int flow_query_add(struct flow_query *q, const struct flow_query_condition *c)
{
	if (c->field == 0 || c->field >= FLOW_QUERY_FIELDS || c->prefix_length > 128)
		return -EINVAL;
	if (q->conditions_count == FLOW_QUERY_CONDITIONS_MAX)
		return -ENOSPC;
	q->condition[q->conditions_count] = *c;
	q->condition[q->conditions_count++].text[sizeof(c->text) - 1] = '\0';
	return 0;
}

void flow_query_order(struct flow_query *q, uint32_t field, bool descending, uint32_t limit, bool all)
{
	q->sort = field < FLOW_QUERY_FIELDS ? field : 0;
	q->descending = descending;
	q->limit = limit;
	q->all = all;
}

int flow_query_group_by(struct flow_query *q, uint32_t field)
{
	switch (field) {
	case FLOW_QUERY_PROTOCOL:
	case FLOW_QUERY_FAMILY:
	case FLOW_QUERY_SRC_PORT:
	case FLOW_QUERY_DST_PORT:
	case FLOW_QUERY_EXPERIMENT:
	case FLOW_QUERY_ACTIVITY:
	case FLOW_QUERY_SOURCE:
	case FLOW_QUERY_RULE:
		break;
	default:
		return -EINVAL;
	}
	q->group_by = field;
	free(q->groups);
	q->groups = calloc(FLOW_QUERY_GROUPS, sizeof(*q->groups));
	return q->groups ? 0 : -ENOMEM;
}

static uint64_t number_of(const struct flow_slot *f, uint32_t field)
{
	switch (field) {
	case FLOW_QUERY_ID:
		return f->id;
	case FLOW_QUERY_PROTOCOL:
		return f->key.protocol;
	case FLOW_QUERY_FAMILY:
		return f->key.family;
	case FLOW_QUERY_SRC_PORT:
		return f->key.src_port;
	case FLOW_QUERY_DST_PORT:
		return f->key.dst_port;
	case FLOW_QUERY_EXPERIMENT:
		return f->experiment;
	case FLOW_QUERY_ACTIVITY:
		return f->activity;
	case FLOW_QUERY_SOURCE:
		return f->source;
	case FLOW_QUERY_RULE:
		return f->rule ? (uint32_t)f->rules << 16 | f->rule : 0;
	case FLOW_QUERY_LABEL:
		return f->label;
	case FLOW_QUERY_START:
		return f->start_us;
	case FLOW_QUERY_SEEN:
		return f->seen_us;
	case FLOW_QUERY_BYTES_SENT:
		return f->bytes_sent;
	case FLOW_QUERY_BYTES_RECEIVED:
		return f->bytes_received;
	case FLOW_QUERY_ROUTE:
		return (uint32_t)f->route;
	default:
		return 0;
	}
}

static bool within(const struct flow_address *a, const struct flow_address *prefix, uint32_t length)
{
	uint32_t octets = length / 8, bits = length % 8;

	if (memcmp(a->octet, prefix->octet, octets) != 0)
		return false;
	return bits == 0 || ((a->octet[octets] ^ prefix->octet[octets]) >> (8 - bits)) == 0;
}

static bool text_matches(const char *pattern, const char *text)
{
	size_t length = strlen(pattern), have = strnlen(text, FLOW_APPLICATION_SIZE);
	bool head = length > 0 && pattern[0] == '*', tail = length > 1 && pattern[length - 1] == '*';
	size_t size = length - head - tail;

	if (length == 1 && head)
		return true;
	if (head && tail)
		return memmem(text, have, pattern + 1, size) != NULL;
	if (have < size || (!head && !tail && have != size))
		return false;
	return memcmp(head ? text + have - size : text, pattern + head, size) == 0;
}

static bool condition_holds(const struct flow_query_condition *c, const struct flow_slot *f)
{
	uint64_t n;

	switch (c->field) {
	case FLOW_QUERY_SRC:
		return within(&f->key.src, &c->prefix, c->prefix_length);
	case FLOW_QUERY_DST:
		return within(&f->key.dst, &c->prefix, c->prefix_length);
	case FLOW_QUERY_APPLICATION:
		return text_matches(c->text, f->application);
	case FLOW_QUERY_ROUTE:
		return ((uint32_t)f->route & c->low) != 0;
	default:
		n = number_of(f, c->field);
		return n >= c->low && n <= c->high;
	}
}

static bool matches(const struct flow_query *q, const struct flow_slot *f)
{
	uint32_t i = 0;

	while (i < q->conditions_count) {
		uint32_t group = q->condition[i].group;
		bool found = false;

		for (; i < q->conditions_count && q->condition[i].group == group; i++)
			found = found || condition_holds(&q->condition[i], f);
		if (!found)
			return false;
	}
	return true;
}

bool flow_query_event(const struct flow_query *q, const struct flow_event *e)
{
	struct flow_slot f = {.key = e->key,
			      .label = e->label,
			      .route = e->route,
			      .start_us = e->time_us,
			      .seen_us = e->time_us,
			      .bytes_sent = e->bytes_sent,
			      .bytes_received = e->bytes_received,
			      .experiment = e->experiment,
			      .activity = e->activity,
			      .source = e->source,
			      .rule = e->rule};

	memcpy(f.application, e->application, sizeof(f.application));
	return matches(q, &f);
}

static uint64_t big_endian(const void *octets)
{
	uint64_t value;

	memcpy(&value, octets, sizeof(value));
	return __builtin_bswap64(value);
}

static void set_key(const struct flow_query *q, struct flow_query_row *r, const struct flow_slot *f)
{
	switch (q->sort) {
	case FLOW_QUERY_SRC:
		r->key[0] = big_endian(f->key.src.octet);
		r->key[1] = big_endian(f->key.src.octet + 8);
		break;
	case FLOW_QUERY_DST:
		r->key[0] = big_endian(f->key.dst.octet);
		r->key[1] = big_endian(f->key.dst.octet + 8);
		break;
	case FLOW_QUERY_APPLICATION:
		r->key[0] = big_endian(f->application);
		r->key[1] = big_endian(f->application + 8);
		break;
	default:
		r->key[0] = number_of(f, q->sort);
		r->key[1] = 0;
	}
	r->id = f->id;
	r->slot = (uint32_t)(f - q->table->slots);
	r->spare = 0;
}

/* Does `a` come after `b` in the result? */
static bool after(const struct flow_query *q, const struct flow_query_row *a, const struct flow_query_row *b)
{
	if (a->key[0] != b->key[0])
		return (a->key[0] > b->key[0]) != q->descending;
	if (a->key[1] != b->key[1])
		return (a->key[1] > b->key[1]) != q->descending;
	return a->id > b->id;
}

/* The heap has the last row of the result on top. */
static void sift_down(struct flow_query *q, uint32_t count)
{
	struct flow_query_row row = q->rows[0];
	uint32_t at = 0;

	for (;;) {
		uint32_t child = 2 * at + 1;

		if (child >= count)
			break;
		if (child + 1 < count && after(q, &q->rows[child + 1], &q->rows[child]))
			child++;
		if (!after(q, &q->rows[child], &row))
			break;
		q->rows[at] = q->rows[child];
		at = child;
	}
	q->rows[at] = row;
}

static void sift_up(struct flow_query *q, uint32_t at)
{
	struct flow_query_row row = q->rows[at];

	while (at > 0 && after(q, &row, &q->rows[(at - 1) / 2])) {
		q->rows[at] = q->rows[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	q->rows[at] = row;
}

static bool grow(struct flow_query *q)
{
	uint32_t size = q->rows_size == 0 ? 64 : q->rows_size * 2;
	struct flow_query_row *larger = realloc(q->rows, size * sizeof(*larger));

	if (!larger) {
		q->out_of_memory = true;
		return false;
	}
	q->rows = larger;
	q->rows_size = size;
	return true;
}

static void keep(struct flow_query *q, const struct flow_slot *f)
{
	struct flow_query_row row;

	if (q->limit == 0)
		return;
	set_key(q, &row, f);
	if (q->rows_count < q->limit) {
		if (q->rows_count == q->rows_size && !grow(q))
			return;
		q->rows[q->rows_count++] = row;
		if (q->sort)
			sift_up(q, q->rows_count - 1);
	} else if (q->sort && after(q, &q->rows[0], &row)) {
		q->rows[0] = row;
		sift_down(q, q->rows_count);
	}
}

static void add_up(struct flow_query_sum *sum, const struct flow_slot *f)
{
	sum->flows++;
	sum->bytes_sent += f->bytes_sent;
	sum->bytes_received += f->bytes_received;
}

/* Rules of lists before have numbers that mean others now. */
static uint32_t group_of(const struct flow_query *q, const struct flow_slot *f)
{
	if (q->group_by == FLOW_QUERY_RULE && f->rule != 0 && f->rules != q->table->rules)
		return FLOW_QUERY_GROUPS - 1;
	return number_of(f, q->group_by) % FLOW_QUERY_GROUPS;
}

static void scan(struct flow_query *q, uint32_t budget)
{
	uint32_t used = q->table->header->slots_used;
	uint32_t end = used - q->next > budget && used > q->next ? q->next + budget : used;

	for (; q->next < end; q->next++) {
		const struct flow_slot *f = &q->table->slots[q->next];

		if (f->commit != FLOW_SLOT_OPEN || !matches(q, f))
			continue;
		add_up(&q->total, f);
		if (q->groups)
			add_up(&q->groups[group_of(q, f)], f);
		keep(q, f);
		if (!q->sort && !q->all && !q->groups && q->limit > 0 && q->rows_count == q->limit) {
			q->scanned = true;
			return;
		}
	}
	q->scanned = q->next >= used;
}

/* The top of the heap is the last of what is not in place yet. */
static void arrange(struct flow_query *q, uint32_t budget)
{
	while (budget-- > 0 && q->rows_count - q->sorted > 1) {
		uint32_t last = q->rows_count - ++q->sorted;
		struct flow_query_row row = q->rows[0];

		q->rows[0] = q->rows[last];
		q->rows[last] = row;
		sift_down(q, last);
	}
}

bool flow_query_run(struct flow_query *q, uint32_t budget)
{
	if (!q->scanned) {
		scan(q, budget);
		return !q->scanned || (q->sort && q->rows_count > 1);
	}
	if (!q->sort)
		return false;
	arrange(q, budget);
	return q->rows_count - q->sorted > 1;
}

uint32_t flow_query_rows(const struct flow_query *q)
{
	return q->rows_count;
}

const struct flow_query_row *flow_query_row(const struct flow_query *q, uint32_t n)
{
	return n < q->rows_count ? &q->rows[n] : NULL;
}

const struct flow_query_sum *flow_query_total(const struct flow_query *q)
{
	return &q->total;
}

const struct flow_query_sum *flow_query_group(const struct flow_query *q, uint32_t value)
{
	return q->groups && value < FLOW_QUERY_GROUPS ? &q->groups[value] : NULL;
}

uint32_t flow_query_group_next(const struct flow_query *q, uint32_t from)
{
	while (q->groups && from < FLOW_QUERY_GROUPS && q->groups[from].flows == 0)
		from++;
	return q->groups && from < FLOW_QUERY_GROUPS ? from : FLOW_QUERY_GROUPS;
}

bool flow_query_short(const struct flow_query *q)
{
	return q->out_of_memory;
}
