// SPDX-License-Identifier: Apache-2.0
#include "rule_clock.h"

#include <stdlib.h>
#include <string.h>

#include "clock.h"

/* What a sample takes besides its steps: code and data that were not at hand. */
#define SAMPLE_NS 5000

/* A sample is as long as all of its events take to measure, about. */
#define SAMPLE_MOST_NS 50000

struct rule_clock *rule_clock_new(uint32_t steps, uint64_t lap)
{
	struct rule_clock *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->steps = steps;
	c->lap = lap;
	c->sample = calloc(2 * (size_t)steps + 1, sizeof(*c->sample));
	if (!c->sample) {
		free(c);
		return NULL;
	}
	c->window = c->sample + steps;
	c->began = c->ended = c->batch_began = clock_monotonic_ns();
	return c;
}

void rule_clock_free(struct rule_clock *c)
{
	if (!c)
		return;
	free(c->sample);
	free(c);
}

uint32_t rule_clock_begin(struct rule_clock *c, uint32_t count, uint32_t *first)
{
	uint64_t now = clock_monotonic_ns();
	uint64_t each = c->steps * (c->lap + 1);
	uint32_t most = RULE_CLOCK_SAMPLE_MAX;

	/* Nothing came for a while: that is no part of the window. */
	c->over = now - c->ended >= c->length;
	c->batch_began = now;
	c->sample_calls = 0;
	if (now < c->next_sample || !c->steps || !count)
		return 0;
	if (each * most > SAMPLE_MOST_NS)
		most = each < SAMPLE_MOST_NS ? (uint32_t)(SAMPLE_MOST_NS / each) : 1;
	if (most > count)
		most = count;
	c->warming = most == RULE_CLOCK_SAMPLE_MAX ? RULE_CLOCK_WARMING : 0;
	/* Anywhere in the batch: what comes first may be of one kind. */
	*first = (uint32_t)((now >> 4) % (count - most + 1));
	return most;
}

void rule_clock_step(struct rule_clock *c, uint32_t step, uint64_t now)
{
	c->step = step + 1;
	c->step_began = now;
}

void rule_clock_lap(struct rule_clock *c, uint64_t now)
{
	struct rule_step *s = &c->sample[c->step - 1];
	uint64_t took = now - c->step_began;

	c->sample_calls++;
	c->step = 0;
	if (c->warming)
		return;
	took = took > c->lap ? took - c->lap : 0;
	s->ns += took;
	s->calls++;
	if (took > s->most)
		s->most = took;
}

void rule_clock_event(struct rule_clock *c)
{
	if (c->warming)
		c->warming--;
}

void rule_clock_stop(struct rule_clock *c)
{
	if (c->step)
		rule_clock_lap(c, clock_monotonic_ns());
}

void rule_clock_sampled(struct rule_clock *c, bool good, uint64_t begin, uint32_t events, uint32_t count)
{
	for (uint32_t i = 0; i < c->steps && good; i++) {
		struct rule_step *to = &c->window[i];
		const struct rule_step *from = &c->sample[i];

		to->ns += from->ns;
		to->calls += from->calls;
		to->most = from->most > to->most ? from->most : to->most;
	}
	events -= events == RULE_CLOCK_SAMPLE_MAX ? RULE_CLOCK_WARMING : 0;
	if (good && count) {
		c->begin += begin * events / count;
		c->sampled += events;
	}
	memset(c->sample, 0, c->steps * sizeof(*c->sample));
	c->next_sample = c->batch_began + RULE_CLOCK_PRICE * (SAMPLE_NS + c->sample_calls * c->lap);
}

void rule_clock_end(struct rule_clock *c, uint32_t count)
{
	c->ended = clock_monotonic_ns();
	c->spent += c->ended - c->batch_began;
	c->events += count;
	c->over = c->ended - c->began >= c->length;
}

bool rule_clock_check(struct rule_clock *c)
{
	return clock_monotonic_ns() - c->began >= c->length;
}

void rule_clock_restart(struct rule_clock *c)
{
	memset(c->window, 0, c->steps * sizeof(*c->window));
	c->began = c->ended = clock_monotonic_ns();
	c->spent = c->events = c->sampled = c->begin = 0;
	c->over = false;
}
