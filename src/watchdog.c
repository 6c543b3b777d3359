/* SPDX-License-Identifier: Apache-2.0 */
#include "watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "handover.h"
#include "heap.h"

/* Read and written by the handler too: one thread, so volatile is enough. */
static struct {
	struct state_running *volatile running;
	volatile sig_atomic_t installed;
	volatile sig_atomic_t armed;
	volatile sig_atomic_t guarding; /* watchdog_guard() */
	volatile uint64_t seen_heartbeat;
	/* What the clocks said at the last tick, ... */
	volatile uint64_t wall_ns, cpu_ns, queued_ns, memory;
	/* ... and the time since the heartbeat moved: in all, on a CPU, asleep. */
	volatile uint64_t passed_ns, ran_ns, slept_ns;
	uint32_t depth;
} dog;

/* The notes of the scripts that wait for the one that runs. */
static struct {
	uint32_t kind, number;
	char name[sizeof(((struct state_running *)0)->name)];
} outer[WATCHDOG_DEPTH_MAX];

/* The note while there is no state file. */
static struct state_running guarded;

static uint64_t cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* How long we were ready to run and did not get a CPU: the second number of schedstat. 0: not known. */
static uint64_t queued_ns(void)
{
	char text[96];
	int fd = open("/proc/self/schedstat", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	uint64_t value = 0;
	ssize_t i = 0;

	if (fd >= 0)
		close(fd);
	while (i < n && text[i] != ' ')
		i++;
	for (i++; i < n && text[i] >= '0' && text[i] <= '9'; i++)
		value = value * 10 + (uint64_t)(text[i] - '0');
	return value;
}

static void set_timer(long ms)
{
	struct itimerval timer = {.it_value = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000}};

	setitimer(ITIMER_REAL, &timer, NULL);
}

static void write_text(const char *text)
{
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		_exit(71);
}

/* Nothing else can bring events back: end, so that the supervisor starts us anew. */
static void end(const struct state_running *running)
{
	write_text("flowd-lua: ");
	if (!dog.guarding) {
		write_text("a script hangs and the new image cannot be started\n");
		_exit(70);
	}
	write_text(running->name);
	write_text(running->kind == STATE_RUNNING_FILE ? ": never came to its end while it was loaded (an "
							 "endless loop?): nothing is started\n"
						       : ": never returned (an endless loop?)\n");
	_exit(1);
}

void watchdog_replace(uint32_t reason)
{
	struct state_running *running = dog.running;

	if (!running || running->kind == STATE_RUNNING_NOTHING)
		return;
	running->crashes++;
	running->reason = reason;
	if (!dog.guarding)
		handover_exec();
	end(running);
}

static uint64_t at_most(uint64_t ns, uint64_t most)
{
	return ns < most ? ns : most;
}

/*
 * Add what has passed since the last tick, as far as ticks come in time. One that is late tells that the
 * whole process, or the virtual machine with it, was stopped; of that nobody is to blame, and the CPU clock
 * of some machines counts it.
 */
static void count_time(uint64_t wall, uint64_t cpu, uint64_t queued)
{
	const uint64_t most = WATCHDOG_TICK_MOST_MS * 1000000ULL;
	uint64_t passed = at_most(wall - dog.wall_ns, most), ran = at_most(cpu - dog.cpu_ns, most);
	uint64_t busy = ran + (queued - dog.queued_ns);

	dog.passed_ns += passed;
	dog.ran_ns += ran;
	dog.slept_ns += passed > busy ? passed - busy : 0;
}

static bool is_hung(bool queued_known, uint64_t memory_before)
{
	uint64_t limit_ms = dog.guarding ? WATCHDOG_GUARD_LIMIT_MS : WATCHDOG_CPU_LIMIT_MS;
	uint64_t ran_ms = dog.ran_ns / 1000000;

	if (ran_ms >= limit_ms)
		return ran_ms >= 2 * limit_ms || dog.memory < memory_before + WATCHDOG_GROWTH;
	if (!queued_known)
		return dog.passed_ns / 1000000 >= WATCHDOG_WALL_LIMIT_MS;
	return dog.slept_ns / 1000000 >= WATCHDOG_BLOCKED_LIMIT_MS;
}

/* Async-signal-safe: clock_gettime, open, read, close, setitimer, write, execve. */
static void on_tick(int signal_number)
{
	struct state_running *running = dog.running;
	int saved_errno = errno;
	uint64_t wall, cpu, queued, memory = dog.memory;

	(void)signal_number;
	if (!running || running->kind == STATE_RUNNING_NOTHING) {
		dog.armed = 0;
		return;
	}
	wall = clock_monotonic_ns();
	cpu = cpu_ns();
	queued = queued_ns();
	dog.memory = heap_used_by_all();
	if (running->heartbeat != dog.seen_heartbeat) {
		dog.seen_heartbeat = running->heartbeat;
		dog.passed_ns = dog.ran_ns = dog.slept_ns = 0;
	} else {
		count_time(wall, cpu, queued);
		if (is_hung(queued != 0, memory))
			watchdog_replace(STATE_REASON_HANG);
	}
	dog.wall_ns = wall;
	dog.cpu_ns = cpu;
	dog.queued_ns = queued;
	set_timer(WATCHDOG_TICK_MS);
	errno = saved_errno;
}

static int install(struct state_running *running)
{
	struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};

	sigemptyset(&action.sa_mask);
	if (sigaction(SIGALRM, &action, NULL) != 0)
		return -errno;
	dog.running = running;
	dog.installed = 1;
	return 0;
}

int watchdog_guard(void)
{
	int r = install(&guarded);

	dog.guarding = r == 0;
	return r;
}

int watchdog_start(struct state_running *running)
{
	dog.guarding = 0;
	return install(running);
}

void watchdog_stop(void)
{
	if (!dog.installed)
		return;
	set_timer(0);
	dog.installed = dog.armed = 0;
	dog.depth = 0;
	dog.running = NULL;
	signal(SIGALRM, SIG_DFL);
}

uint32_t watchdog_enter(uint32_t kind, uint32_t number, const char *name)
{
	struct state_running *running = dog.running;
	size_t length = name ? strlen(name) : 0;
	uint32_t mark = dog.depth;

	if (!running)
		return mark;
	if (mark < WATCHDOG_DEPTH_MAX) {
		outer[mark].kind = running->kind;
		outer[mark].number = running->number;
		memcpy(outer[mark].name, running->name, sizeof(running->name));
	}
	dog.depth = mark + 1;
	if (length >= sizeof(running->name))
		length = sizeof(running->name) - 1;
	memcpy(running->name, name, length);
	running->name[length] = '\0';
	running->number = number;
	running->entered_us = clock_realtime_us();
	running->heartbeat++;
	running->kind = kind;
	if (!dog.armed) {
		dog.armed = 1;
		set_timer(WATCHDOG_TICK_MS);
	}
	return mark;
}

void watchdog_progress(void)
{
	if (dog.running)
		dog.running->heartbeat++;
}

void watchdog_leave(uint32_t mark)
{
	struct state_running *running = dog.running;

	if (!running || mark >= dog.depth)
		return;
	dog.depth = mark;
	running->heartbeat++;
	running->kind = STATE_RUNNING_NOTHING;
	running->number = 0;
	/* Deeper than notes are kept: what runs now is not known. */
	if (mark >= WATCHDOG_DEPTH_MAX || outer[mark].kind == STATE_RUNNING_NOTHING)
		return;
	running->number = outer[mark].number;
	memcpy(running->name, outer[mark].name, sizeof(running->name));
	running->kind = outer[mark].kind;
}

uint32_t watchdog_mark(void)
{
	return dog.depth;
}
