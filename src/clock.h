/* SPDX-License-Identifier: Apache-2.0 */
/* clock.h - the clocks. */
#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>
#include "ffi_export.h"

/* UNIX time (UTC), microseconds. For what is told to others. */
FFI_EXPORT uint64_t clock_realtime_us(void);

/* Since some point in the past, nanoseconds, never backwards. For durations. */
FFI_EXPORT uint64_t clock_monotonic_ns(void);

/* What this thread has used of a processor, nanoseconds. For what work costs, whoever else runs. */
FFI_EXPORT uint64_t clock_cpu_ns(void);

#endif
