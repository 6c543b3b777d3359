/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow_query.h - find, sort, count and sum open flows, a part of the table in each call.
 *
 * A query is made, given conditions, then run in steps: flow_query_run() looks at so many slots of the
 * table and may be called again with events handled in between. Flows that start or end meanwhile may or may
 * not be met; a row whose flow ended shows that by its id.
 */
#ifndef FLOW_QUERY_H
#define FLOW_QUERY_H

#include <stdbool.h>
#include <stdint.h>
#include "ffi_export.h"
#include "flow_abi.h"
#include "flow_event.h"

struct flow_table;

enum flow_query_field {
	FLOW_QUERY_ID = 1,
	FLOW_QUERY_PROTOCOL,
	FLOW_QUERY_FAMILY,
	FLOW_QUERY_SRC,
	FLOW_QUERY_DST,
	FLOW_QUERY_SRC_PORT,
	FLOW_QUERY_DST_PORT,
	FLOW_QUERY_EXPERIMENT,
	FLOW_QUERY_ACTIVITY,
	FLOW_QUERY_SOURCE,
	FLOW_QUERY_RULE,
	FLOW_QUERY_LABEL,
	FLOW_QUERY_START, /* microseconds of UNIX time */
	FLOW_QUERY_SEEN,
	FLOW_QUERY_BYTES_SENT,
	FLOW_QUERY_BYTES_RECEIVED,
	FLOW_QUERY_ROUTE, /* condition: any of these bits */
	FLOW_QUERY_APPLICATION,
	FLOW_QUERY_FIELDS,
};

enum { FLOW_QUERY_CONDITIONS_MAX = 256, FLOW_QUERY_GROUPS = 65536 };

/* One alternative. Those of one `group` are joined by or, groups by and. */
struct flow_query_condition {
	uint32_t field;
	uint32_t group; /* 0, 1, ...; not falling from one condition to the next */
	uint64_t low;	/* numbers: from, to */
	uint64_t high;
	struct flow_address prefix; /* SRC, DST; IPv4 as IPv4-mapped */
	uint32_t prefix_length;	    /* 0..128 */
	uint32_t spare;
	char text[48]; /* APPLICATION: the same; with '*' at an end: anything there */
};

struct flow_query_row {
	uint64_t key[2]; /* by which it is sorted */
	uint64_t id;
	uint32_t slot;
	uint32_t spare;
};

/* What flows of one value of the field that flow_query_group_by() named have in common. */
struct flow_query_sum {
	uint64_t flows;
	uint64_t bytes_sent;
	uint64_t bytes_received;
};

struct flow_query;

/* Borrows the table. NULL when there is no memory. */
FFI_EXPORT struct flow_query *flow_query_new(const struct flow_table *t);
FFI_EXPORT void flow_query_free(struct flow_query *q);

/* 0, -ENOSPC, -EINVAL for the field. */
FFI_EXPORT int flow_query_add(struct flow_query *q, const struct flow_query_condition *c);

/* Keep the first `limit` rows by that field; field 0: in the order of the table, and no more is looked at
 * once there are so many, unless `all`. limit 0: count only. */
FFI_EXPORT void flow_query_order(struct flow_query *q, uint32_t field, bool descending, uint32_t limit,
				 bool all);

/* Sum up by a field of at most 16 bits. 0, -EINVAL for the field, -ENOMEM. */
FFI_EXPORT int flow_query_group_by(struct flow_query *q, uint32_t field);

/* Do the conditions hold for an event? Times, octets and the id are those of the event. */
FFI_EXPORT bool flow_query_event(const struct flow_query *q, const struct flow_event *e);

/* Look at the next slots, `budget` of them; then put rows in order, as many. True: there is more to do. */
FFI_EXPORT bool flow_query_run(struct flow_query *q, uint32_t budget);

/* When it is done. */
FFI_EXPORT uint32_t flow_query_rows(const struct flow_query *q);
FFI_EXPORT const struct flow_query_row *flow_query_row(const struct flow_query *q, uint32_t n);
/* Of all that matched, whether kept as a row or not. */
FFI_EXPORT const struct flow_query_sum *flow_query_total(const struct flow_query *q);
/* NULL: no such group. */
FFI_EXPORT const struct flow_query_sum *flow_query_group(const struct flow_query *q, uint32_t value);
/* The first group from `from` on that has flows; FLOW_QUERY_GROUPS: none. */
FFI_EXPORT uint32_t flow_query_group_next(const struct flow_query *q, uint32_t from);
/* Rows that were left out because memory ran short. */
FFI_EXPORT bool flow_query_short(const struct flow_query *q);

#endif
