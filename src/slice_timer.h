/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slice_timer.h - a look at the clock from outside, for code that cannot be trusted to look often enough.
 *
 * Of one thread, the one that begins first. The signal is SIGURG: one that is still pending when the process
 * is replaced (handover.h) is ignored by the next.
 */
#ifndef SLICE_TIMER_H
#define SLICE_TIMER_H

#include <stdint.h>

/* From so many nanoseconds on, and each millisecond after that, call a function in a signal handler. Takes
 * the place of what began before. Where the system has no timer left nothing is called. */
void slice_timer_begin(uint64_t after_ns, void (*fn)(void));

/* No more from now on. */
void slice_timer_end(void);

#endif
