/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rule_clock.h - how much time each rule takes, measured on a sample of the events.
 *
 * What a chain of rules runs one after another are its steps: a rule, or declared rules that an index
 * answers together. All batches are timed as a whole; of some of them a few events go step by step, with
 * a clock around each (lua_rule_clock.c). The steps' parts of the sample times the whole is what
 * each has taken, so that a sample which was held up cannot make a rule slow that is not.
 *
 * In a large batch what measuring runs is not at hand for the first events, other than what runs otherwise:
 * these do not count.
 *
 * A sample is taken when the ones before have paid for themselves: the clocks take one part in
 * RULE_CLOCK_PRICE of the daemon's time, and all that a sample costs two to four. When there is little to do
 * that is every event.
 *
 * A clock belongs to whoever made it. Times are nanoseconds of clock_monotonic_ns().
 */
#ifndef RULE_CLOCK_H
#define RULE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include "ffi_export.h"

enum {
	RULE_CLOCK_SAMPLE_MAX = 18, /* events of one batch */
	RULE_CLOCK_WARMING = 2,	    /* the first of these, of a whole sample */
	RULE_CLOCK_PRICE = 1000,
};

struct rule_step {
	uint64_t ns;   /* without what measuring takes */
	uint64_t most; /* at a time */
	uint64_t calls;
};

struct rule_clock {
	uint32_t steps;
	uint32_t step;	       /* that runs, counted from 1; 0: none */
	uint64_t step_began;   /* when */
	uint64_t batch_began;  /* the batch in hand */
	uint64_t next_sample;  /* not before */
	uint64_t lap;	       /* what measuring takes for each step */
	uint64_t sample_calls; /* of the sample in hand */
	uint32_t warming;      /* its next events, which do not count */
	/* The window: what has been measured since it began. */
	uint64_t length; /* it is over when this has passed: set by the owner */
	uint64_t began;
	uint64_t ended;	  /* the end of the last batch */
	uint64_t spent;	  /* on all batches */
	uint64_t events;  /* of these */
	uint64_t sampled; /* of these, measured or found decided */
	uint64_t begin;	  /* on looking up, for the whole batch, what declared rules match: in the samples'
			     proportion */
	bool over;	  /* the owner should look at it and begin another one */
	struct rule_step *sample; /* in hand: `steps` of each */
	struct rule_step *window;
};

/* For a chain of `steps` steps, of which each takes `lap` ns to measure. NULL: out of memory. */
FFI_EXPORT struct rule_clock *rule_clock_new(uint32_t steps, uint64_t lap);
FFI_EXPORT void rule_clock_free(struct rule_clock *c);

/* A batch of `count` events comes. Returns how many of them to measure, 0..RULE_CLOCK_SAMPLE_MAX, and sets
 * *first to the first of these. Here and in rule_clock_end() the window may be over. */
FFI_EXPORT uint32_t rule_clock_begin(struct rule_clock *c, uint32_t count, uint32_t *first);

/* A step is over that was left by an error. Nothing when none runs. */
FFI_EXPORT void rule_clock_stop(struct rule_clock *c);

/* The sample is taken: into the window with it or, when something else than rules took time, away. `begin`:
 * what looking up took for the whole batch of `count` events, of which `events` were to be measured. */
FFI_EXPORT void rule_clock_sampled(struct rule_clock *c, bool good, uint64_t begin, uint32_t events,
				   uint32_t count);

/* The batch is through. */
FFI_EXPORT void rule_clock_end(struct rule_clock *c, uint32_t count);

/* Is the window over by now? Also when no batch has come for so long. */
FFI_EXPORT bool rule_clock_check(struct rule_clock *c);

/* Begin a new window. */
FFI_EXPORT void rule_clock_restart(struct rule_clock *c);

/* For who runs the steps: step `step`, counted from 0, begins; it is over; so is the event. */
void rule_clock_step(struct rule_clock *c, uint32_t step, uint64_t now);
void rule_clock_lap(struct rule_clock *c, uint64_t now);
void rule_clock_event(struct rule_clock *c);

#endif
