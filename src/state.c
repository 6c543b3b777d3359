/* SPDX-License-Identifier: Apache-2.0 */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "state_file.h"

/* How long to go on refusing before a full file system is asked again. */
#define GROW_RETRY_NS 100000000ULL

struct state_header *state_header(struct state *s)
{
	return (struct state_header *)s->base;
}

struct state_running *state_running(struct state *s)
{
	return &state_header(s)->running;
}

struct flow_slot *state_slots(struct state *s)
{
	return (struct flow_slot *)(s->base + STATE_SLOTS_OFFSET);
}

uint32_t state_slots_limit(const struct state *s)
{
	return s->slots_limit;
}

/* Address space for everything the file may grow to. */
static int map_file(struct state *s, uint32_t flows_max, uint32_t slots_reserved)
{
	uint32_t slots = flows_max + STATE_SLOTS_EXTRA;

	if (slots < slots_reserved)
		slots = slots_reserved;
	s->slots_limit = (slots + STATE_CHUNK_SLOTS - 1) / STATE_CHUNK_SLOTS * STATE_CHUNK_SLOTS;
	s->size = STATE_SLOTS_OFFSET + (size_t)s->slots_limit * sizeof(struct flow_slot);
	s->base = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, s->fd, 0);
	if (s->base == MAP_FAILED) {
		s->base = NULL;
		return -errno;
	}
	return 0;
}

static int create(struct state *s, uint32_t flows_max)
{
	struct state_header *h;
	int error;

	/* All zero: nothing of an older file shines through. */
	if (ftruncate(s->fd, 0) != 0)
		return -errno;
	error = state_file_reserve(s->fd, 0, STATE_FIXED_SIZE);
	if (!error)
		error = map_file(s, flows_max, 0);
	if (!error)
		error = counter_table_attach(s->fd, STATE_COUNTERS_OFFSET, false);
	if (error) {
		/* Half a file is of use to nobody; the lock is held. */
		unlink(s->path);
		return error;
	}
	h = state_header(s);
	h->version = STATE_VERSION;
	h->slot_size = sizeof(struct flow_slot);
	state_file_boot_id(h->boot_id, sizeof(h->boot_id));
	h->created_us = clock_realtime_us();
	return 0;
}

/* Every page that will be touched must be there: a file that was copied may have holes. */
static int reserve_adopted(const struct state *s, const struct state_header *h)
{
	int error = state_file_reserve(s->fd, 0, STATE_FIXED_SIZE);

	if (!error && h->slots_reserved > 0)
		error = state_file_reserve(s->fd, STATE_SLOTS_OFFSET,
					   (int64_t)h->slots_reserved * (int64_t)sizeof(struct flow_slot));
	return error;
}

/* The change that was under way when the last owner was killed did not happen. A change leaves
 * identity and key alone: an undo for another flow is damage. */
static void undo_change(struct state *s)
{
	struct state_header *h = state_header(s);
	struct flow_slot *f;

	if (h->undo_slot == 0)
		return;
	f = &state_slots(s)[h->undo_slot - 1];
	if (f->commit == FLOW_SLOT_OPEN && h->undo.commit == FLOW_SLOT_OPEN && f->id == h->undo.id &&
	    memcmp(&f->key, &h->undo.key, sizeof(f->key)) == 0)
		*f = h->undo;
	atomic_signal_fence(memory_order_seq_cst);
	h->undo_slot = 0;
}

static int adopt(struct state *s, const struct state_header *found, uint32_t flows_max)
{
	int error = reserve_adopted(s, found);

	if (!error)
		error = map_file(s, flows_max, found->slots_reserved);
	if (error)
		return error;
	state_header(s)->adoptions++;
	undo_change(s);
	error = counter_table_attach(s->fd, STATE_COUNTERS_OFFSET, true);
	if (!error)
		state_file_repair(s);
	return error;
}

/* Take the file over, or make it anew. */
static int fill(struct state *s, uint32_t flows_max)
{
	struct state_header found;
	const char *refusal;
	struct stat st;

	if (fstat(s->fd, &st) != 0)
		return -errno;
	if (st.st_size == 0)
		return create(s, flows_max);
	memset(&found, 0, sizeof(found));
	if (pread(s->fd, &found, sizeof(found), 0) < 0)
		return -errno;
	refusal = state_file_refusal(&found, st.st_size);
	if (refusal) {
		log_warn("state file %s: made anew, what it held is lost: %s", s->path, refusal);
		return create(s, flows_max);
	}
	if (found.pid)
		log_info("state file %s: taken over from pid %u, which was killed", s->path, found.pid);
	else
		log_info("state file %s: taken over from the daemon before", s->path);
	return adopt(s, &found, flows_max);
}

static struct state *state_new(const char *path)
{
	struct state *s = calloc(1, sizeof(*s) + strlen(path) + 1);

	if (s) {
		s->fd = -1;
		memcpy(s->path, path, strlen(path) + 1);
	}
	return s;
}

struct state *state_open(const char *path, uint32_t flows_max, char *error, size_t error_size)
{
	struct state *s;
	struct state_header *h;
	int result;

	if (flows_max < 1 || flows_max > STATE_FLOWS_MAX) {
		snprintf(error, error_size, "max_flows is %u, expected 1 to %d", flows_max, STATE_FLOWS_MAX);
		return NULL;
	}
	s = state_new(path);
	if (!s) {
		snprintf(error, error_size, "state file %s: out of memory", path);
		return NULL;
	}
	s->fd = state_file_lock(path, error, error_size);
	if (s->fd < 0) {
		free(s);
		return NULL;
	}
	/* RLIMIT_FSIZE is to be an error of the call, not our end. */
	signal(SIGXFSZ, SIG_IGN);
	result = fill(s, flows_max);
	if (result != 0) {
		snprintf(error, error_size, "state file %s: %s", path, strerror(-result));
		state_close(s, false);
		return NULL;
	}
	h = state_header(s);
	h->flows_max = flows_max;
	h->pid = (uint32_t)getpid();
	h->opened_us = clock_realtime_us();
	atomic_signal_fence(memory_order_seq_cst);
	memcpy(h->magic, STATE_MAGIC, sizeof(h->magic));
	return s;
}

void state_close(struct state *s, bool remove)
{
	if (!s)
		return;
	if (s->view) {
		free(s->base);
	} else if (s->base) {
		int error = counter_table_detach();

		if (error)
			log_error("counters: %s", strerror(-error));
		state_header(s)->pid = 0;
		/* While the lock is held: nobody else's file can be at that path. */
		if (remove && unlink(s->path) != 0 && errno != ENOENT)
			log_error("state file %s: cannot remove it: %s", s->path, strerror(errno));
		munmap(s->base, s->size);
	}
	if (s->fd >= 0)
		close(s->fd);
	free(s);
}

int state_slots_grow(struct state *s)
{
	struct state_header *h = state_header(s);
	uint64_t now;
	int error;

	if (h->slots_reserved >= s->slots_limit)
		return -ENOSPC;
	now = clock_monotonic_ns();
	if (s->refused && now - s->refused_ns < GROW_RETRY_NS)
		return -ENOSPC;
	error = state_file_reserve(
		s->fd, STATE_SLOTS_OFFSET + (int64_t)h->slots_reserved * (int64_t)sizeof(struct flow_slot),
		STATE_CHUNK_SIZE);
	s->refused = error != 0;
	s->refused_ns = now;
	if (error) {
		static struct log_limit limit = {.burst = 1, .interval_ns = 60000000000ULL};

		log_limited(&limit, LOG_LEVEL_ERROR, "state file %s: no room for more flows: %s", s->path,
			    strerror(-error));
		return -ENOSPC;
	}
	h->slots_reserved += STATE_CHUNK_SLOTS;
	return 0;
}

/* -- views ---------------------------------------------------------------------- */

static int read_fixed(struct state *s)
{
	size_t done = 0;

	s->base = calloc(1, STATE_FIXED_SIZE);
	if (!s->base)
		return -ENOMEM;
	/* Copied, not mapped: whatever happens to the file, reading the copy cannot fail. */
	while (done < STATE_FIXED_SIZE) {
		ssize_t n = pread(s->fd, s->base + done, STATE_FIXED_SIZE - done, (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		done += (size_t)n;
	}
	return 0;
}

/* A damaged file must not make its reader run on. */
static void terminate_texts(struct state *s)
{
	struct state_header *h = state_header(s);

	h->boot_id[sizeof(h->boot_id) - 1] = '\0';
	h->running.name[sizeof(h->running.name) - 1] = '\0';
	for (uint32_t i = 0; i < STATE_NAMES_MAX; i++)
		state_names(s)[i].text[STATE_NAME_SIZE - 1] = '\0';
	for (uint32_t i = 0; i < STATE_INPUTS_MAX; i++)
		state_inputs(s)[i].name[STATE_INPUT_NAME_SIZE - 1] = '\0';
}

/* NULL, or what is wrong with the file. */
static const char *load_view(struct state *s, const char *path)
{
	const struct state_header *h;
	struct stat st;
	int error;

	s->view = true;
	s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (s->fd < 0)
		return errno == ENOENT ? "no such file: no daemon runs with this runtime_dir"
				       : strerror(errno);
	if (fstat(s->fd, &st) != 0)
		return strerror(errno);
	if (!S_ISREG(st.st_mode))
		return "not a regular file";
	error = read_fixed(s);
	if (error == -ENODATA)
		return "it is cut short";
	if (error)
		return strerror(-error);
	h = state_header(s);
	if (memcmp(h->magic, STATE_MAGIC, sizeof(h->magic)) != 0)
		return "it is no state file, or not finished";
	if (h->version != STATE_VERSION)
		return "it has the layout of another version of flowd-lua";
	terminate_texts(s);
	return NULL;
}

struct state *state_view(const char *path, char *error, size_t error_size)
{
	struct state *s = state_new(path);
	const char *refusal;

	if (!s) {
		snprintf(error, error_size, "state file %s: out of memory", path);
		return NULL;
	}
	refusal = load_view(s, path);
	if (refusal) {
		snprintf(error, error_size, "state file %s: %s", path, refusal);
		state_close(s, false);
		return NULL;
	}
	return s;
}

bool state_owned(const struct state *s)
{
	return state_file_locked(s->fd);
}

const struct counter *state_counter(const struct state *s, uint32_t n)
{
	const struct counter *c = (const struct counter *)(s->base + STATE_COUNTERS_OFFSET) + n;

	return n < COUNTERS_MAX && counter_valid(c) ? c : NULL;
}
