/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watchdog.h - notice a script that never returns, and replace the process.
 *
 * LuaJIT checks count hooks neither in compiled code nor inside C functions such as string patterns, so
 * nothing inside Lua can end every endless loop. What can: a note in the state file says which script is
 * entered (struct state_running), and a timer signal whose handler finds the same entry still there hands
 * over to a new image (handover.h), which reads the note and starts with the culprit switched off.
 *
 * The timer runs only while a script is inside: an idle daemon is not woken up.
 */
#ifndef WATCHDOG_H
#define WATCHDOG_H

#include <stdint.h>
#include "ffi_export.h"
#include "state.h"

enum {
	WATCHDOG_TICK_MS = 100,
	/* So much is counted of the time between two ticks, however late the second one is. */
	WATCHDOG_TICK_MOST_MS = 150,
	/* Hung: no progress for this long by the CPU clock (a loop), ... */
	WATCHDOG_CPU_LIMIT_MS = 600,
	/* ... twice that long while it takes so many octets more of memory in each tick (that ends with an
	 * error of its own, heap.h), ... */
	WATCHDOG_GROWTH = 1 << 20,
	/* ... or for this long asleep (a call that blocks). Time in which the process waits for a CPU, or is
	 * stopped, is nobody's fault, ... */
	WATCHDOG_BLOCKED_LIMIT_MS = 1200,
	/* ... and where the kernel does not tell that time, by the wall clock. */
	WATCHDOG_WALL_LIMIT_MS = 10000,
	/* The same while nothing runs yet (watchdog_guard()), by the CPU clock. */
	WATCHDOG_GUARD_LIMIT_MS = 1500,
	/* Scripts within scripts whose notes are kept. */
	WATCHDOG_DEPTH_MAX = 16,
};

/* Until watchdog_start(): a file of the configuration that never comes to its end while it is loaded, or a
 * script that is tried and never returns, ends the process with status 1 and its name on standard error.
 * There is nothing yet that could go on. 0 or -errno. */
FFI_EXPORT int watchdog_guard(void);

/* Install the handler (SIGALRM). `running` is where the note is written: borrowed until
 * watchdog_stop(). Returns 0 or -errno. */
FFI_EXPORT int watchdog_start(struct state_running *running);
FFI_EXPORT void watchdog_stop(void);

/*
 * A script is entered: kind is STATE_RUNNING_*, number the owner's choice, name cut to fit (NULL: none).
 * Cheap: once per batch or callback. Scripts nest (a plugin's callback runs the rules): what is returned goes
 * to watchdog_leave(). Works (and only writes the note) without watchdog_start(), does nothing without a
 * note.
 */
FFI_EXPORT uint32_t watchdog_enter(uint32_t kind, uint32_t number, const char *name);

/* Still the same script, but it makes progress. */
FFI_EXPORT void watchdog_progress(void);

/* The script returned, or raised, and whatever it had entered and not left: the note is again about the
 * script that was running before. */
FFI_EXPORT void watchdog_leave(uint32_t mark);

/* Replace the process now, because of the script that runs. Returns when there is none, or nobody watches.
 * Async-signal-safe. */
void watchdog_replace(uint32_t reason);

/* What watchdog_enter() would return: for callers that leave, whatever their callee entered. */
uint32_t watchdog_mark(void);

#endif
