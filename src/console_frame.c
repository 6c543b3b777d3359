/* SPDX-License-Identifier: Apache-2.0 */
#include "console_frame.h"

#include <errno.h>
#include <string.h>

int console_frame_parse(const uint8_t *data, size_t size, uint32_t max, struct console_frame *frame)
{
	memset(frame, 0, sizeof(*frame));
	if (size < CONSOLE_HEAD_SIZE)
		return 0;
	frame->length = (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 | data[3];
	frame->version = data[4];
	frame->type = data[5];
	frame->status = data[6];
	frame->spare = data[7];
	frame->body = data + CONSOLE_HEAD_SIZE;
	if (frame->version != CONSOLE_VERSION)
		return -EPROTONOSUPPORT;
	if (frame->spare != 0)
		return -EPROTO;
	if (frame->length > max)
		return -EMSGSIZE;
	return size - CONSOLE_HEAD_SIZE >= frame->length ? 1 : 0;
}

void console_frame_head(uint8_t out[CONSOLE_HEAD_SIZE], uint8_t type, uint8_t status, uint32_t length)
{
	out[0] = (uint8_t)(length >> 24);
	out[1] = (uint8_t)(length >> 16);
	out[2] = (uint8_t)(length >> 8);
	out[3] = (uint8_t)length;
	out[4] = CONSOLE_VERSION;
	out[5] = type;
	out[6] = status;
	out[7] = 0;
}
