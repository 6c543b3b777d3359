// SPDX-License-Identifier: Apache-2.0
#include "step_sort.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	RUN = 2048,   /* elements that are sorted at a time */
	STEP = 16384, /* that are merged at a time */
};

int step_sort_begin(struct step_sort *s, void *array, size_t size, uint32_t count, uint32_t room,
		    int (*compare)(const void *, const void *))
{
	*s = (struct step_sort){
		.array = array, .size = size, .count = count, .width = RUN, .compare = compare};
	if (count <= RUN)
		return 0;
	s->scratch = reallocarray(NULL, room, size);
	return s->scratch ? 0 : -ENOMEM;
}

static void sort_run(struct step_sort *s)
{
	uint32_t count = s->count - s->sorted < RUN ? s->count - s->sorted : RUN;

	if (count)
		qsort(s->array + s->sorted * s->size, count, s->size, s->compare);
	s->sorted += count;
}

/* The next two runs; of the last pass behind the last one: none. */
static void next_runs(struct step_sort *s)
{
	s->left = s->out;
	s->middle = s->right = s->count - s->left > s->width ? s->left + s->width : s->count;
	s->end = s->count - s->middle > s->width ? s->middle + s->width : s->count;
}

static const char *next(struct step_sort *s)
{
	const char *left = s->array + s->left * s->size, *right = s->array + s->right * s->size;

	if (s->left == s->middle || (s->right < s->end && s->compare(right, left) < 0)) {
		s->right++;
		return right;
	}
	s->left++;
	return left;
}

/* A pass is over: the runs are twice as wide. */
static void turn(struct step_sort *s)
{
	char *sorted = s->scratch;

	s->scratch = s->array;
	s->array = sorted;
	s->left = s->middle = s->right = s->end = s->out = 0;
	s->width = s->count - s->width > s->width ? 2 * s->width : s->count;
}

int step_sort_step(struct step_sort *s)
{
	if (s->sorted < s->count) {
		sort_run(s);
		return s->sorted < s->count || s->count > RUN;
	}
	for (uint32_t n = 0; n < STEP; n++) {
		if (s->left == s->middle && s->right == s->end) {
			if (s->out == s->count) {
				turn(s);
				return s->width < s->count;
			}
			next_runs(s);
		}
		memcpy(s->scratch + s->out * s->size, next(s), s->size);
		s->out++;
	}
	return 1;
}

void step_sort_end(struct step_sort *s)
{
	free(s->scratch);
	s->scratch = NULL;
}
