/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_line.h"

#include <errno.h>
#include <string.h>

#include "address.h"

enum field {
	FIELD_STATE,
	FIELD_PROTOCOL,
	FIELD_SRC,
	FIELD_SRC_PORT,
	FIELD_DST,
	FIELD_DST_PORT,
	FIELD_EXPERIMENT,
	FIELD_ACTIVITY,
	FIELDS,
};

static const char *const field_names[FIELDS + 1] = {
	"state",      "protocol", "source address", "source port", "destination address", "destination port",
	"experiment", "activity", "ninth field",
};

static const char *const reason_names[FLOW_LINE_REASONS] = {
	[FLOW_LINE_OK] = "ok",
	[FLOW_LINE_EMPTY] = "empty",
	[FLOW_LINE_TOO_LONG] = "too_long",
	[FLOW_LINE_UNFINISHED] = "unfinished",
	[FLOW_LINE_FIELDS] = "fields",
	[FLOW_LINE_STATE] = "state",
	[FLOW_LINE_PROTOCOL] = "protocol",
	[FLOW_LINE_ADDRESS] = "address",
	[FLOW_LINE_PORT] = "port",
	[FLOW_LINE_EXPERIMENT] = "experiment",
	[FLOW_LINE_ACTIVITY] = "activity",
};

/* A line taken apart; offsets from its start. */
struct split {
	const char *line;
	uint32_t count; /* fields found; FIELDS + 1: more than there may be */
	uint32_t offset[FIELDS + 1];
	uint32_t length[FIELDS + 1];
};

/* isspace(3) of the C locale; a newline cannot be within a line that was read. */
static const uint8_t blanks[256] = {
	[' '] = 1, ['\t'] = 1, ['\n'] = 1, ['\v'] = 1, ['\f'] = 1, ['\r'] = 1,
};

static bool is_blank(char ch)
{
	return blanks[(unsigned char)ch];
}

static void split_line(struct split *split, const char *line, size_t length)
{
	const char *p = line, *end = line + length;
	uint32_t n = 0;

	split->line = line;
	for (;;) {
		const char *first;

		while (p < end && is_blank(*p))
			p++;
		if (p == end || n > FIELDS)
			break;
		first = p;
		while (p < end && !is_blank(*p))
			p++;
		split->offset[n] = (uint32_t)(first - line);
		split->length[n] = (uint32_t)(p - first);
		n++;
	}
	split->count = n;
}

static int refuse(const struct split *split, enum field field, enum flow_line_reason reason,
		  const char *expected, struct flow_line_error *error)
{
	bool present = (uint32_t)field < split->count;

	error->reason = reason;
	error->value_offset = present ? split->offset[field] : 0;
	error->value_length = present ? split->length[field] : 0;
	error->spare = 0;
	error->field = field_names[field];
	error->expected = expected;
	return -EINVAL;
}

/* `word` is in lower case letters. */
static bool is_word(const struct split *split, enum field field, const char *word, size_t length)
{
	const char *p = split->line + split->offset[field];

	if (split->length[field] != length)
		return false;
	/* Only a letter and its lower case become equal here. */
	for (size_t i = 0; i < length; i++)
		if ((p[i] | 0x20) != word[i])
			return false;
	return true;
}

/* All digits? Then *value is the number, UINT32_MAX for what is far beyond every range. */
static bool read_number(const struct split *split, enum field field, uint32_t *value)
{
	const char *p = split->line + split->offset[field];
	uint32_t result = 0;

	for (uint32_t i = 0; i < split->length[field]; i++) {
		unsigned int digit = (unsigned char)(p[i] - '0');

		if (digit > 9)
			return false;
		result = result > 99999999 ? UINT32_MAX : result * 10 + digit;
	}
	*value = result;
	return true;
}

static bool read_port(const struct split *split, enum field field, uint16_t *port)
{
	uint32_t value;

	if (!read_number(split, field, &value) || value < 1 || value > UINT16_MAX)
		return false;
	*port = (uint16_t)value;
	return true;
}

/* A number up to `max` or a name; `experiment` as for flow_line_name_find(). */
static bool read_id(const struct split *split, enum field field, uint32_t experiment, bool named,
		    uint32_t max, uint32_t *id)
{
	if (read_number(split, field, id))
		return *id <= max;
	if (!named)
		return false;
	*id = flow_line_name_find(experiment, split->line + split->offset[field], split->length[field]);
	return *id != 0;
}

static int read_tag(const struct split *split, struct flow_event *event, struct flow_line_error *error)
{
	uint32_t experiment, activity;

	if (!read_id(split, FIELD_EXPERIMENT, 0, true, FLOW_EXPERIMENT_MAX, &experiment))
		return refuse(split, FIELD_EXPERIMENT, FLOW_LINE_EXPERIMENT,
			      "0 to 511, or the name of an experiment", error);
	/* Names of activities repeat with other ids in other experiments. */
	if (!read_id(split, FIELD_ACTIVITY, experiment, experiment != 0, FLOW_ACTIVITY_MAX, &activity))
		return refuse(split, FIELD_ACTIVITY, FLOW_LINE_ACTIVITY,
			      experiment ? "0 to 63, or the name of an activity of the line's experiment"
					 : "0 to 63 (an experiment of 0 has no activities by name)",
			      error);
	event->experiment = (uint16_t)experiment;
	event->activity = (uint8_t)activity;
	return 0;
}

static int read_endpoints(const struct split *split, struct flow_key *key, struct flow_line_error *error)
{
	int src, dst;

	src = address_parse(split->line + split->offset[FIELD_SRC], split->length[FIELD_SRC], &key->src);
	if (src < 0)
		return refuse(split, FIELD_SRC, FLOW_LINE_ADDRESS, "an IPv4 or IPv6 address", error);
	if (!read_port(split, FIELD_SRC_PORT, &key->src_port))
		return refuse(split, FIELD_SRC_PORT, FLOW_LINE_PORT, "1 to 65535", error);
	dst = address_parse(split->line + split->offset[FIELD_DST], split->length[FIELD_DST], &key->dst);
	if (dst < 0)
		return refuse(split, FIELD_DST, FLOW_LINE_ADDRESS, "an IPv4 or IPv6 address", error);
	if (dst != src)
		return refuse(split, FIELD_DST, FLOW_LINE_ADDRESS,
			      src == 4 ? "an IPv4 address, as the source" : "an IPv6 address, as the source",
			      error);
	if (!read_port(split, FIELD_DST_PORT, &key->dst_port))
		return refuse(split, FIELD_DST_PORT, FLOW_LINE_PORT, "1 to 65535", error);
	key->family = (uint8_t)src;
	return 0;
}

int flow_line_parse(const char *line, size_t length, uint64_t now_us, struct flow_event *event,
		    struct flow_line_error *error)
{
	struct split split;
	int err;

	split_line(&split, line, length);
	if (split.count != FIELDS) {
		if (split.count == 0)
			return refuse(&split, FIELD_STATE, FLOW_LINE_EMPTY, "a line with eight fields",
				      error);
		return refuse(
			&split, split.count < FIELDS ? (enum field)split.count : FIELDS, FLOW_LINE_FIELDS,
			"eight fields: start|end tcp|udp SRC-IP SRC-PORT DST-IP DST-PORT EXPERIMENT ACTIVITY",
			error);
	}
	memset(event, 0, sizeof(*event));
	event->time_us = now_us;
	event->route = FLOW_ROUTE_ALL;
	event->slot = FLOW_SLOT_NONE;

	if (is_word(&split, FIELD_STATE, "start", 5))
		event->state = FLOW_START;
	else if (is_word(&split, FIELD_STATE, "end", 3))
		event->state = FLOW_END;
	else
		return refuse(&split, FIELD_STATE, FLOW_LINE_STATE, "start or end", error);

	if (is_word(&split, FIELD_PROTOCOL, "tcp", 3))
		event->key.protocol = FLOW_TCP;
	else if (is_word(&split, FIELD_PROTOCOL, "udp", 3))
		event->key.protocol = FLOW_UDP;
	else
		return refuse(&split, FIELD_PROTOCOL, FLOW_LINE_PROTOCOL, "tcp or udp", error);

	err = read_endpoints(&split, &event->key, error);
	if (err)
		return err;
	return read_tag(&split, event, error);
}

const char *flow_line_reason_name(uint32_t reason)
{
	return reason < FLOW_LINE_REASONS ? reason_names[reason] : "unknown";
}
