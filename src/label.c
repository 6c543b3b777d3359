/* SPDX-License-Identifier: Apache-2.0 */
#include "label.h"

#include <errno.h>

static bool ids_valid(uint32_t experiment, uint32_t activity)
{
	return experiment >= 1 && experiment <= FLOW_EXPERIMENT_MAX && activity >= 1 &&
	       activity <= FLOW_ACTIVITY_MAX;
}

/* The nine bits of an experiment in reverse order. */
static uint32_t reverse9(uint32_t value)
{
	uint32_t result = 0;

	for (int i = 0; i < 9; i++)
		result |= (value >> i & 1) << (8 - i);
	return result;
}

uint32_t label_encode(uint32_t experiment, uint32_t activity, uint32_t entropy5)
{
	if (!ids_valid(experiment, activity))
		return 0;
	return reverse9(experiment) << 9 | activity << 2 | (entropy5 & 3) | (entropy5 >> 2 & 1) << 8 |
	       (entropy5 >> 3 & 3) << 18;
}

uint32_t label_experiment(uint32_t label)
{
	return reverse9(label >> 9 & 0x1FF);
}

uint32_t label_activity(uint32_t label)
{
	return label >> 2 & 0x3F;
}

uint32_t label_entropy(uint32_t label)
{
	return (label & 3) | (label >> 8 & 1) << 2 | (label >> 18 & 3) << 3;
}

int label_header_encode(uint8_t *out, uint8_t next_header, uint32_t experiment, uint32_t activity)
{
	if (!ids_valid(experiment, activity))
		return -EINVAL;
	out[0] = next_header;
	out[1] = 0; /* in units of 8 octets, not counting the first */
	out[2] = LABEL_OPTION_TYPE;
	out[3] = LABEL_OPTION_LENGTH;
	out[4] = (uint8_t)(experiment >> 8);
	out[5] = (uint8_t)experiment;
	out[6] = (uint8_t)activity;
	out[7] = 0; /* Pad1 */
	return 0;
}
