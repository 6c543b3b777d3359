/* SPDX-License-Identifier: Apache-2.0 */
/*
 * step_sort.h - an array sorted step by step, none of which takes long.
 *
 * Runs of some thousand elements are sorted, then merged into a second array, and back. Which of the two is
 * the array changes: it is the caller's, has all elements at any time, and stands in struct step_sort.
 */
#ifndef STEP_SORT_H
#define STEP_SORT_H

#include <stddef.h>
#include <stdint.h>

struct step_sort {
	char *array;   /* the caller's */
	char *scratch; /* owned */
	size_t size;
	uint32_t count;
	int (*compare)(const void *, const void *);
	uint32_t sorted, width; /* `width` elements stand in order at a time */
	/* A merge takes from `left` and `right`, which end at `middle` and `end`, to `out`. */
	uint32_t left, middle, right, end, out;
};

/* Sort `count` elements, of `size` octets each, of an array from malloc() that has room for `room`: as
 * qsort() does. Returns 0 or -ENOMEM. */
int step_sort_begin(struct step_sort *s, void *array, size_t size, uint32_t count, uint32_t room,
		    int (*compare)(const void *, const void *));

/* 1: there is more to do; 0: s->array is in order. Take s->array after each step: it may be another one. */
int step_sort_step(struct step_sort *s);

/* The end, or given up: frees what it owns, not the array. Nothing when it never began and is zero. */
void step_sort_end(struct step_sort *s);

#endif
