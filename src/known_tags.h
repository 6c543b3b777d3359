/* SPDX-License-Identifier: Apache-2.0 */
/*
 * known_tags.h - are experiment and activity of an event in the registry? One table for the process.
 */
#ifndef KNOWN_TAGS_H
#define KNOWN_TAGS_H

#include <stdbool.h>

#include "counter.h"
#include "flow_event.h"
#include "ffi_export.h"

/* Forget all: nothing is known. */
FFI_EXPORT void known_tags_clear(void);

/* experiment 1..511; activity 1..63, or 0: the experiment itself. Others are passed over. */
FFI_EXPORT void known_tags_add(uint32_t experiment, uint32_t activity);

/*
 * After the rules: count the events whose tag was decided now and whose experiment, or activity of a known
 * experiment, is not known. strict: such an event loses its tag, as if no rule had found one. Unset ids (0)
 * are not looked at.
 */
FFI_EXPORT void known_tags_check(struct flow_batch *batch, bool strict, struct counter *experiments,
				 struct counter *activities);

#endif
