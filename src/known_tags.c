/* SPDX-License-Identifier: Apache-2.0 */
#include "known_tags.h"

#include <string.h>

/* Bit A of word E: activity A of experiment E; bit 0: the experiment. */
static uint64_t known[FLOW_EXPERIMENT_MAX + 1];

void known_tags_clear(void)
{
	memset(known, 0, sizeof(known));
}

void known_tags_add(uint32_t experiment, uint32_t activity)
{
	if (experiment >= 1 && experiment <= FLOW_EXPERIMENT_MAX && activity <= FLOW_ACTIVITY_MAX)
		known[experiment] |= 1ULL << activity;
}

void known_tags_check(struct flow_batch *batch, bool strict, struct counter *experiments,
		      struct counter *activities)
{
	for (uint32_t i = 0; i < batch->count; i++) {
		struct flow_event *e = &batch->event[i];

		if (e->experiment == 0 || (e->flags & (EVENT_DECIDED | EVENT_DROPPED)))
			continue;
		if (e->experiment > FLOW_EXPERIMENT_MAX || !(known[e->experiment] & 1))
			experiments->value++;
		else if (e->activity != 0 && !(known[e->experiment] & 1ULL << e->activity))
			activities->value++;
		else
			continue;
		if (strict)
			e->experiment = e->activity = 0;
	}
}
