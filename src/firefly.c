/* SPDX-License-Identifier: Apache-2.0 */
#include "firefly.h"

#include <string.h>
#include <unistd.h>

#include "address.h"
#include "decimal.h"
#include "json_text.h"
#include "timestamp.h"

#define DEFAULT_APPLICATION "flowd-lua " FLOWD_VERSION

/* Append a string literal: the length is a constant, so the copy is a few moves. */
#define PUT(p, literal) (memcpy((p), (literal), sizeof(literal) - 1), (p) + sizeof(literal) - 1)

/* Everything that stands in a firefly, each variable part at its longest. */
_Static_assert(
	sizeof("<134>1  flowd-lua - firefly-json - ") + TIMESTAMP_LENGTH + FIREFLY_HOSTNAME_MAX +
			sizeof("{\"version\":1,\"flow-lifecycle\":{\"state\":\"ongoing\",\"start-time\":\"\","
			       "\"end-time\":\"\",\"current-time\":\"\"},\"flow-id\":{\"afi\":\"ipv6\","
			       "\"src-ip\":\"\",\"dst-ip\":\"\",\"protocol\":\"tcp\",\"src-port\":,"
			       "\"dst-port\":},\"usage\":{\"received\":,\"sent\":},"
			       "\"context\":{\"experiment-id\":,\"activity-id\":,\"application\":\"\"}}") +
			3 * TIMESTAMP_LENGTH + 2 * ADDRESS_TEXT_SIZE + 2 * 5 + 2 * 20 + 5 + 3 +
			FLOW_APPLICATION_SIZE * JSON_TEXT_GROWTH <=
		FIREFLY_ENCODED_MAX,
	"FIREFLY_ENCODED_MAX is too small");
_Static_assert(FIREFLY_ENCODED_MAX <= FIREFLY_SIZE_IPV6, "a firefly does not fit a datagram");
_Static_assert(sizeof(DEFAULT_APPLICATION) <= FLOW_APPLICATION_SIZE, "the version is too long");

void firefly_style_init(struct firefly_style *style, bool syslog_header, const char *hostname)
{
	memset(style, 0, sizeof(*style));
	style->syslog_header = syslog_header;
	if (hostname && *hostname)
		strncpy(style->hostname, hostname, sizeof(style->hostname) - 1);
	else if (gethostname(style->hostname, sizeof(style->hostname) - 1) != 0)
		style->hostname[0] = '\0';
	/* RFC 5424, 6.2.4: the NILVALUE when it is not known. */
	if (!style->hostname[0])
		style->hostname[0] = '-';
	for (char *p = style->hostname; *p; p++) {
		if (*p < '!' || *p > '~')
			*p = '-';
	}
	style->hostname_length = (uint16_t)strlen(style->hostname);
}

static char *put_time(char *p, uint64_t time_us)
{
	return p + timestamp_format(time_us, p);
}

static char *put_header(char *p, const struct firefly_style *style, uint64_t now_us)
{
	p = PUT(p, "<134>1 ");
	p = put_time(p, now_us);
	*p++ = ' ';
	memcpy(p, style->hostname, style->hostname_length);
	p += style->hostname_length;
	return PUT(p, " flowd-lua - firefly-json - ");
}

static char *put_lifecycle(char *p, const struct flow_event *event, uint64_t now_us)
{
	uint64_t time_us = event->time_us ? event->time_us : now_us;
	uint64_t start_us = event->start_us ? event->start_us : time_us;

	/* The clock was set back meanwhile: no flow lasts less than no time. */
	if (time_us < start_us)
		time_us = start_us;
	p = PUT(p, "{\"version\":1,\"flow-lifecycle\":{\"state\":\"");
	if (event->state == FLOW_START)
		p = PUT(p, "start");
	else if (event->state == FLOW_END)
		p = PUT(p, "end");
	else
		p = PUT(p, "ongoing");
	p = PUT(p, "\",\"start-time\":\"");
	p = put_time(p, start_us);
	if (event->state == FLOW_END) {
		p = PUT(p, "\",\"end-time\":\"");
		p = put_time(p, time_us);
	}
	p = PUT(p, "\",\"current-time\":\"");
	p = put_time(p, now_us);
	return PUT(p, "\"},");
}

static char *put_flow_id(char *p, const struct flow_key *key)
{
	if (key->family == 4)
		p = PUT(p, "\"flow-id\":{\"afi\":\"ipv4\",\"src-ip\":\"");
	else
		p = PUT(p, "\"flow-id\":{\"afi\":\"ipv6\",\"src-ip\":\"");
	p += address_format(&key->src, p);
	p = PUT(p, "\",\"dst-ip\":\"");
	p += address_format(&key->dst, p);
	if (key->protocol == FLOW_UDP)
		p = PUT(p, "\",\"protocol\":\"udp\",\"src-port\":");
	else
		p = PUT(p, "\",\"protocol\":\"tcp\",\"src-port\":");
	p = decimal_put(p, key->src_port);
	p = PUT(p, ",\"dst-port\":");
	p = decimal_put(p, key->dst_port);
	return PUT(p, "},");
}

static char *put_usage(char *p, const struct flow_event *event)
{
	p = PUT(p, "\"usage\":{");
	if (event->flags & EVENT_HAS_BYTES) {
		p = PUT(p, "\"received\":");
		p = decimal_put(p, event->bytes_received);
		p = PUT(p, ",");
	}
	p = PUT(p, "\"sent\":");
	p = decimal_put(p, event->bytes_sent);
	return PUT(p, "},");
}

static char *put_context(char *p, const struct flow_event *event)
{
	p = PUT(p, "\"context\":{\"experiment-id\":");
	p = decimal_put(p, event->experiment);
	p = PUT(p, ",\"activity-id\":");
	p = decimal_put(p, event->activity);
	p = PUT(p, ",\"application\":\"");
	if (event->application[0])
		p += json_text_escape(p, event->application,
				      strnlen(event->application, FLOW_APPLICATION_SIZE));
	else
		p = PUT(p, DEFAULT_APPLICATION);
	return PUT(p, "\"}}");
}

static size_t encode(char *out, const struct firefly_style *style, const struct flow_event *event,
		     uint64_t now_us)
{
	char *p = out;

	if (style->syslog_header)
		p = put_header(p, style, now_us);
	p = put_lifecycle(p, event, now_us);
	p = put_flow_id(p, &event->key);
	if (event->flags & (EVENT_HAS_BYTES | EVENT_HAS_SENT))
		p = put_usage(p, event);
	p = put_context(p, event);
	return (size_t)(p - out);
}

size_t firefly_encode(char *out, size_t size, const struct firefly_style *style,
		      const struct flow_event *event, uint64_t now_us)
{
	char room[FIREFLY_ENCODED_MAX];
	size_t length;

	if (size >= FIREFLY_ENCODED_MAX)
		return encode(out, style, event, now_us);
	length = encode(room, style, event, now_us);
	if (length > size)
		return 0;
	memcpy(out, room, length);
	return length;
}
