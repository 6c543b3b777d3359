/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console_frame.h - the frames in which the console's socket speaks, both ways.
 *
 * A frame is a head of 8 octets and a body:
 *
 *   0..3  length of the body, most significant octet first
 *   4     version, CONSOLE_VERSION
 *   5     type, enum console_type
 *   6     status, enum console_status; 0 in requests
 *   7     0
 *
 * The client sends one request and gets any number of OUTPUT frames and one END. It may send an INTERRUPT
 * meanwhile, which has no answer of its own. Requests that are sent before the END wait.
 *
 *   EVAL      options, "name=value" separated by blanks, a newline, Lua
 *   COMPLETE  a line up to the cursor; OUTPUT brings candidates, one a line, the word they replace first
 *   END       body: what the status means, for people; may be empty
 */
#ifndef CONSOLE_FRAME_H
#define CONSOLE_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

enum {
	CONSOLE_VERSION = 1,
	CONSOLE_HEAD_SIZE = 8,
	CONSOLE_REQUEST_MAX = 65536, /* octets of a request's body */
	CONSOLE_REPLY_MAX = 65536,   /* of a reply's */
};

enum console_type {
	CONSOLE_EVAL = 1,
	CONSOLE_COMPLETE = 2,
	CONSOLE_INTERRUPT = 3,
	CONSOLE_OUTPUT = 17,
	CONSOLE_END = 18,
};

enum console_status {
	CONSOLE_OK = 0,
	CONSOLE_ERROR = 1,	 /* the code raised, or is no Lua */
	CONSOLE_INCOMPLETE = 2,	 /* the code ends in the middle of a statement */
	CONSOLE_INTERRUPTED = 3, /* by the client, a reload, the daemon's end */
	CONSOLE_REFUSED = 4,	 /* this user may not */
	CONSOLE_MALFORMED = 5,	 /* no such frame: the connection ends */
	CONSOLE_BUSY = 6,	 /* too many clients: the connection ends */
};

struct console_frame {
	uint32_t length; /* of the body */
	uint8_t version;
	uint8_t type;
	uint8_t status;
	uint8_t spare;
	const uint8_t *body; /* borrowed from the input */
};

/*
 * Look for a frame at the start of `data`. Returns 1: it is complete, CONSOLE_HEAD_SIZE + length octets; 0:
 * more is needed; -EPROTONOSUPPORT for the version, -EMSGSIZE for a body above `max`, -EPROTO for octet 7:
 * the head is filled in then, as far as it is there.
 */
FFI_EXPORT int console_frame_parse(const uint8_t *data, size_t size, uint32_t max,
				   struct console_frame *frame);

/* Write a head. */
void console_frame_head(uint8_t out[CONSOLE_HEAD_SIZE], uint8_t type, uint8_t status, uint32_t length);

#endif
