/* SPDX-License-Identifier: Apache-2.0 */
/* state_name.c - names in the state file: numbers and route bits that survive. */
#include <errno.h>
#include <string.h>

#include "state_file.h"

int state_name_id(struct state *s, const char *name)
{
	size_t len = strnlen(name, STATE_NAME_SIZE);
	int unused = 0;

	if (len == 0 || len == STATE_NAME_SIZE)
		return -EINVAL;
	for (int i = 1; i < STATE_NAMES_MAX; i++) {
		struct state_name *entry = &state_names(s)[i];

		if (strcmp(entry->text, name) == 0)
			return i;
		if (entry->text[0] == '\0' && !unused)
			unused = i;
	}
	if (!unused)
		return -ENOSPC;
	memcpy(state_names(s)[unused].text, name, len);
	return unused;
}

const char *state_name(const struct state *s, uint32_t id)
{
	return id < STATE_NAMES_MAX ? state_names(s)[id].text : "";
}

int state_backend_bit(struct state *s, const char *name)
{
	struct state_header *h = state_header(s);
	int id = state_name_id(s, name);

	if (id < 0)
		return id;
	for (int bit = 0; bit < FLOW_BACKENDS_MAX; bit++) {
		if (h->backend[bit] == id)
			return bit;
	}
	for (int bit = 0; bit < FLOW_BACKENDS_MAX; bit++) {
		if (h->backend[bit] == 0) {
			h->backend[bit] = (uint16_t)id;
			return bit;
		}
	}
	return -ENOSPC;
}
