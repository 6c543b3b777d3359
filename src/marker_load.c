/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marker_load.c - the marking programs and their maps in the kernel. The size of the table is part
 * of a program: a larger table comes with programs of its own, which follow in place of the
 * present ones when it holds the same flows.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/membarrier.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kernel_version.h"
#include "label.skel.h"
#include "log.h"
#include "marker_internal.h"
#include "marker_kernel.h"
#include "marker_tables.h"
#include "privileges.h"
#include "watchdog.h"

_Static_assert(sizeof(((struct label_bpf__bss *)0)->local_ports) * 8 == 65536, "a bit for every port");
_Static_assert(sizeof(((struct label_bpf__bss *)0)->moved) == MARKER_CLASSES * sizeof(struct marker_count),
	       "one of each");
_Static_assert(sizeof(((struct label_bpf__bss *)0)->counted) == MARKER_CLASSES * sizeof(struct marker_count),
	       "one of each");

struct request {
	uint32_t capacity;
	bool pinned; /* with the maps that are pinned, else */
	const struct label_bpf
		*sharing; /* with these, but for the table if its capacity differs, else new ones */
	bool bare;
	bool clock;
	bool early; /* in a thread that takes no signal */
};

uint32_t marker_capacity(uint64_t marks)
{
	uint32_t capacity = MARKER_CAPACITY_MIN;

	while (capacity < (UINT32_C(1) << 30) && (uint64_t)capacity * 5 < marks * 8)
		capacity *= 2;
	return capacity;
}

/* The table, and the program that is for a table of its size, only when `flows` is set. */
static int share_maps(struct label_bpf *s, const struct label_bpf *with, bool flows)
{
	const struct bpf_map *theirs[] = {with->maps.cpus, with->maps.bss, with->maps.flows,
					  with->maps.writers};
	struct bpf_map *maps[] = {s->maps.cpus, s->maps.bss, s->maps.flows, s->maps.writers};

	for (int i = 0; i < (flows ? 4 : 2); i++) {
		int r = bpf_map__reuse_fd(maps[i], bpf_map__fd(theirs[i]));

		if (r < 0)
			return r;
	}
	return 0;
}

/* The factor of a new table, or of the pinned one. 0 or -errno. */
static int find_factor(struct marker *m, const struct label_bpf *s)
{
	struct label_bpf__bss *bss;
	uint32_t zero = 0, random;
	int r;

	if (!m->reused) {
		if (getrandom(&random, sizeof(random), 0) < 0)
			return -errno;
		m->table.flows.factor = MARKER_FACTOR ^ (int32_t)(random & MARKER_FACTOR_RANDOM);
		return 0;
	}
	bss = malloc(sizeof(*bss));
	if (!bss)
		return -ENOMEM;
	r = bpf_map_lookup_elem(bpf_map__fd(s->maps.bss), &zero, bss);
	if (r == 0)
		m->table.flows.factor = bss->factor;
	free(bss);
	return r;
}

static int prepare(struct marker *m, struct label_bpf *s, const struct request *q)
{
	bool flat = marker_tables_flat(q->capacity, !m->slow);
	int r = marker_tables_prepare(s->maps.cpus, s->maps.flows, m->cpus, q->capacity, !m->slow);

	if (r < 0)
		return r;
	s->rodata->entry_bits = (uint32_t)__builtin_ctz(q->capacity);
	s->rodata->entries_from = q->capacity / MARKER_ENTRY_SIZE;
	s->rodata->headers_pointers = !m->guarded;
	bpf_program__set_autoload(s->progs.label_in_place, flat);
	bpf_program__set_autoload(s->progs.label_bare, q->bare);
	bpf_program__set_autoload(s->progs.label_clock, q->clock);
	if (q->sharing)
		r = share_maps(s, q->sharing, q->capacity == m->table.flows.capacity);
	else {
		if (q->pinned)
			m->reused = marker_pins_reuse(&m->pins, s->obj);
		r = find_factor(m, s);
	}
	marker_kernel_set_factor((int32_t)m->table.flows.factor);
	return r;
}

/* The kernel gives a program up (EAGAIN) that it is verifying when a signal comes, and a slow machine may
 * take longer over it than from one tick of the watchdog to the next. */
static int load_undisturbed(struct label_bpf *s)
{
	sigset_t tick, before;
	int r;

	sigemptyset(&tick);
	sigaddset(&tick, SIGALRM);
	sigprocmask(SIG_BLOCK, &tick, &before);
	r = label_bpf__load(s);
	watchdog_progress();
	sigprocmask(SIG_SETMASK, &before, NULL);
	return r;
}

static int load(struct marker *m, struct label_bpf **out, const struct request *q)
{
	struct label_bpf *s = label_bpf__open();
	int r;

	*out = NULL;
	if (!s)
		return -errno;
	r = prepare(m, s, q);
	if (r == 0)
		r = q->early ? label_bpf__load(s) : load_undisturbed(s);
	marker_tables_prepared();
	if (r == 0)
		*out = s;
	else
		label_bpf__destroy(s);
	return r;
}

/* Before Linux 6.2, or without CAP_PERFMON, programs do not see what is behind their context. */
static int load_best(struct marker *m, struct label_bpf **out, const struct request *q)
{
	bool slow = m->slow;
	int r = -EPERM;

	m->slow = slow || marker_kernel_use() < 0;
	m->guarded = privileges_missing(PRIVILEGE_PERFMON) != 0;
	/* Older ones take long, and all memory, to find out that they refuse it: 6.1 and 5.10 do. */
	if (m->guarded && kernel_version_before(6, 12))
		return -EPERM;
	if (!m->slow && !m->guarded)
		r = load(m, out, q);
	if (r == 0)
		return r;
	m->slow = true;
	r = load(m, out, q);
	if (r < 0)
		m->slow = slow;
	return r;
}

static void use(struct marker *m, struct label_bpf *s)
{
	m->skeleton = s;
	m->table.local_ports = s->bss->local_ports;
	m->table.totals.classes = s->bss->classes;
	m->table.totals.moved = (struct marker_count *)(void *)s->bss->moved;
	m->table.totals.counted = (struct marker_count *)(void *)s->bss->counted;
}

void marker_load_writer(const struct marker *m)
{
	uint32_t number = 0;
	int fd = bpf_program__fd(m->skeleton->progs.label_in_place), r; /* negative: it is not loaded */

	if (fd < 0)
		return;
	r = bpf_map_update_elem(bpf_map__fd(m->skeleton->maps.writers), &number, &fd, BPF_ANY);
	if (r < 0)
		log_warn("marker: packets are written to the slow way: %s", strerror(-r));
}

static int map_cpus(struct marker *m)
{
	void *base = mmap(NULL, m->cpus * sizeof(struct marker_cpu), PROT_READ, MAP_SHARED,
			  bpf_map__fd(m->skeleton->maps.cpus), 0);

	if (base == MAP_FAILED)
		return -errno;
	m->cpu = base;
	return 0;
}

int marker_load_early(struct marker *m)
{
	struct request q = {.clock = true, .capacity = MARKER_CAPACITY_START, .early = true};

	return load_best(m, &m->skeleton, &q);
}

/* What was loaded early, when it serves. */
static struct label_bpf *take_early(struct marker *m, uint32_t capacity)
{
	struct label_bpf *s = m->skeleton;

	m->skeleton = NULL;
	if (s && capacity == MARKER_CAPACITY_START)
		return s;
	label_bpf__destroy(s);
	return NULL;
}

int marker_load(struct marker *m, uint32_t marks_max)
{
	struct request q = {.pinned = true, .clock = true};
	uint32_t start = marker_capacity(marks_max);
	struct label_bpf *s;
	int r;

	if (start > MARKER_CAPACITY_START)
		start = MARKER_CAPACITY_START;
	q.capacity = marker_pins_capacity(&m->pins);
	s = take_early(m, q.capacity == 0 ? start : 0);
	if (q.capacity == 0)
		q.capacity = start;
	r = s ? 0 : load_best(m, &s, &q);
	if (r == 0 && !m->reused && q.capacity != start) {
		/* That was the size of a table that could not be taken over. */
		label_bpf__destroy(s);
		q = (struct request){.clock = true, .capacity = start};
		r = load_best(m, &s, &q);
	}
	if (r < 0)
		return r;
	if (m->guarded)
		log_warn("marker: without CAP_PERFMON the kernel takes only a slower program: a packet of a "
			 "marked flow costs two to three times as much; everything is marked and counted all "
			 "the same");
	use(m, s);
	m->clock_program = dup(bpf_program__fd(s->progs.label_clock));
	if (m->clock_program < 0)
		return -errno;
	if (!m->reused) {
		s->bss->factor = m->table.flows.factor;
		s->bss->deadline = UINT64_MAX;
		marker_load_writer(m);
	}
	r = map_cpus(m);
	if (r == 0)
		r = marker_flows_map(&m->table.flows, bpf_map__fd(s->maps.flows), q.capacity, s->bss->factor,
				     true);
	return r;
}

int marker_load_program(const struct marker *m, bool bare)
{
	return bpf_program__fd(bare ? m->skeleton->progs.label_bare : m->skeleton->progs.label_ethernet);
}

int marker_load_bare(struct marker *m)
{
	struct request q = {.capacity = m->table.flows.capacity, .sharing = m->skeleton, .bare = true};
	struct label_bpf *old = m->skeleton, *s;
	int r;

	if (m->bare)
		return 0;
	r = load_best(m, &s, &q);
	if (r < 0)
		return r;
	use(m, s);
	m->bare = true;
	if (!m->adopting)
		marker_load_writer(m);
	label_bpf__destroy(old);
	return 0;
}

/* -- a larger table --------------------------------------------------------------------- */

/* When this returns, every program that ran when it was called has ended. */
static void wait_for_programs(void)
{
	static const struct timespec pause = {.tv_nsec = 50000000};

	if (syscall(__NR_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) < 0)
		nanosleep(&pause, NULL);
}

/* Fill `to`, and there[] with where each entry of `from` went. */
static int copy_flows(struct marker_flows *to, const struct marker_flows *from, uint32_t *there,
		      const uint8_t *stale, uint8_t *stale_to)
{
	for (uint32_t at = 0; at < from->capacity; at++) {
		there[at] = MARKER_NOWHERE;
		if (!marker_flows_taken(from, at))
			continue;
		there[at] = marker_flows_copy(to, from, at);
		if (there[at] == MARKER_NOWHERE)
			return -ENOSPC;
		if (stale)
			stale_to[there[at]] = stale[at];
	}
	return 0;
}

static void renew_links(struct marker *m)
{
	for (uint32_t i = 0; i < m->links_count; i++) {
		struct marker_link *link = &m->links[i];
		int r;

		/* With programs and maps of the process before, which are not ours. */
		if (link->pending && !m->reused)
			continue;
		r = marker_link_renew(link, marker_load_program(m, link->bare));
		if (r < 0)
			log_warn("marker: interface %s: cannot go on with what is attached: %s", link->name,
				 strerror(-r));
	}
}

int marker_load_larger(struct marker *m, uint32_t capacity)
{
	struct request q = {.capacity = capacity, .sharing = m->skeleton, .bare = m->bare};
	struct marker_flows old = m->table.flows, larger = {0};
	struct label_bpf *before = m->skeleton, *s;
	uint32_t *there = malloc(old.capacity * sizeof(*there));
	uint8_t *stale = m->table.stale ? calloc(capacity, 1) : NULL;
	int r = there && (stale || !m->table.stale) ? load_best(m, &s, &q) : -ENOMEM;

	if (r < 0)
		goto out;
	r = marker_flows_map(&larger, bpf_map__fd(s->maps.flows), capacity, old.factor, true);
	if (r == 0)
		r = copy_flows(&larger, &old, there, m->table.stale, stale);
	if (r < 0) {
		marker_flows_unmap(&larger);
		label_bpf__destroy(s);
		goto out;
	}
	m->table.flows = larger;
	use(m, s);
	marker_load_writer(m);
	renew_links(m);
	wait_for_programs();
	for (uint32_t at = 0; at < old.capacity; at++) {
		if (there[at] != MARKER_NOWHERE)
			marker_flows_carry(&m->table.flows, there[at], &old, at);
	}
	/* What is pinned until marker_settle belongs together, whosever it is. */
	if (!m->adopting || m->reused) {
		marker_pins_map(&m->pins, s->maps.flows);
		marker_pins_map(&m->pins, s->maps.writers);
	}
	if (m->table.stale) {
		free(m->table.stale);
		m->table.stale = stale;
		stale = NULL;
	}
	marker_flows_unmap(&old);
	label_bpf__destroy(before);
	log_debug("marker: room for %u flows", capacity / 8 * 5);
out:
	free(stale);
	free(there);
	return r;
}
