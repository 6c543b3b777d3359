// SPDX-License-Identifier: Apache-2.0
#include "slice_timer.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { AGAIN_NS = 1000000 };

static timer_t timer;
static enum { UNTRIED, THERE, NOT_THERE } state;
static void (*volatile callback)(void);

static void on_signal(int signal)
{
	void (*fn)(void) = callback;

	(void)signal;
	if (fn)
		fn();
}

static bool make_timer(void)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	struct sigevent event;

	memset(&event, 0, sizeof(event));
	event.sigev_notify = SIGEV_THREAD_ID;
	event.sigev_signo = SIGURG;
	event.sigev_notify_thread_id = (int)syscall(SYS_gettid);
	sigemptyset(&action.sa_mask);
	return sigaction(SIGURG, &action, NULL) == 0 && timer_create(CLOCK_MONOTONIC, &event, &timer) == 0;
}

static void set(uint64_t after_ns, uint64_t again_ns)
{
	struct itimerspec when = {
		.it_value = {(time_t)(after_ns / 1000000000), (long)(after_ns % 1000000000)},
		.it_interval = {0, (long)again_ns},
	};

	timer_settime(timer, 0, &when, NULL);
}

void slice_timer_begin(uint64_t after_ns, void (*fn)(void))
{
	if (state == UNTRIED)
		state = make_timer() ? THERE : NOT_THERE;
	if (state == NOT_THERE)
		return;
	callback = fn;
	set(after_ns > 0 ? after_ns : 1, AGAIN_NS);
}

void slice_timer_end(void)
{
	callback = NULL;
	if (state == THERE)
		set(0, 0);
}
