/* SPDX-License-Identifier: Apache-2.0 */
/* heap_class.h - sizes of the blocks of a heap (heap.h). */
#ifndef HEAP_CLASS_H
#define HEAP_CLASS_H

#include <stddef.h>

enum {
	/* Multiples of 8 up to HEAP_LINEAR_MAX, then four to each power of two. */
	HEAP_LINEAR_MAX = 512,
	HEAP_LINEAR_STEP = 8,
	HEAP_LINEAR_CLASSES = HEAP_LINEAR_MAX / HEAP_LINEAR_STEP,
	/* Larger ones are mappings of their own, which can grow where they are. */
	HEAP_BLOCK_MAX = 1 << 15,
	HEAP_CLASSES = HEAP_LINEAR_CLASSES + 4 * 6,
};

/* The class whose blocks hold `size` octets, and their size. */
static inline unsigned int heap_class(size_t size, size_t *block_size)
{
	unsigned int power, step;

	if (size <= HEAP_LINEAR_MAX) {
		*block_size = (size + HEAP_LINEAR_STEP - 1) & ~(size_t)(HEAP_LINEAR_STEP - 1);
		return (unsigned int)(*block_size / HEAP_LINEAR_STEP - 1);
	}
	/* 2^power < size <= 2^(power+1) */
	power = 63 - (unsigned int)__builtin_clzll(size - 1);
	step = (unsigned int)((size - 1 - ((size_t)1 << power)) >> (power - 2));
	*block_size = ((size_t)1 << power) + ((size_t)(step + 1) << (power - 2));
	return HEAP_LINEAR_CLASSES + (power - 9) * 4 + step;
}

#endif
