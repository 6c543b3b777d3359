/* SPDX-License-Identifier: Apache-2.0 */
#include "counter.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "log.h"

enum { INDEX_SIZE = 4 * COUNTERS_MAX };

static struct {
	struct counter *entry; /* COUNTERS_MAX, at one address for the process's life */
	uint32_t count;
	bool overflowed;
	uint16_t index[INDEX_SIZE]; /* entry number + 1; open addressing, nothing is removed */
} table;

static const char overflow_name[] = "flowd_counters_overflow_total";

static uint32_t hash_name(const char *name)
{
	uint32_t h = 2166136261u;

	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 16777619u;
	return h ^ h >> 15;
}

/* The place of the name in the index: its own, or the free one where it belongs. */
static uint16_t *find_place(const char *name)
{
	uint32_t i = hash_name(name) % INDEX_SIZE;

	while (table.index[i] && strcmp(table.entry[table.index[i] - 1].name, name) != 0)
		i = (i + 1) % INDEX_SIZE;
	return &table.index[i];
}

static uint32_t kind_of(const char *name)
{
	static const char suffix[] = "_total";
	size_t base = strcspn(name, "{");
	size_t len = sizeof(suffix) - 1;

	return base > len && memcmp(name + base - len, suffix, len) == 0 ? COUNTER_TOTAL : COUNTER_GAUGE;
}

static const char *skip_word(const char *p)
{
	while ((*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') || *p == '_')
		p++;
	return p;
}

/* Behind the closing quote of a label's value; NULL when it has none or is not escaped well.
 * Octets above 0x7f are UTF-8's. */
static const char *skip_value(const char *p)
{
	for (; *p != '"'; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return NULL;
		if (*p == '\\' && *++p != '\\' && *p != '"' && *p != 'n')
			return NULL;
	}
	return p + 1;
}

/* flowd_NAME, or flowd_NAME{KEY="VALUE",...}: one that is not would make the whole
 * exposition unreadable. */
static bool name_valid(const char *name)
{
	static const char prefix[] = "flowd_";
	const char *p;

	if (strnlen(name, COUNTER_NAME_SIZE) == COUNTER_NAME_SIZE ||
	    strncmp(name, prefix, sizeof(prefix) - 1) != 0)
		return false;
	p = skip_word(name);
	if (*p == '\0')
		return true;
	do {
		const char *key = *p == '{' || *p == ',' ? p + 1 : NULL;

		p = key ? skip_word(key) : NULL;
		if (!p || p == key || p[0] != '=' || p[1] != '"')
			return false;
		p = skip_value(p + 2);
	} while (p && *p == ',');
	return p && p[0] == '}' && p[1] == '\0';
}

bool counter_valid(const struct counter *c)
{
	return name_valid(c->name) && c->kind == kind_of(c->name);
}

static struct counter *add(const char *name, uint16_t *place)
{
	struct counter *c = &table.entry[table.count];

	c->value = 0;
	c->kind = kind_of(name);
	c->spare = 0;
	/* The name makes the entry valid for readers of the file: last, and NUL-filled. */
	strncpy(c->name, name, sizeof(c->name) - 1);
	*place = (uint16_t)++table.count;
	return c;
}

static void create(void)
{
	void *memory =
		mmap(NULL, counter_table_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED) {
		/* A megabyte of address space at start-up: nothing can run without it. */
		log_error("counters: cannot reserve memory: %s", strerror(errno));
		abort();
	}
	table.entry = memory;
	/* Registered first: it must exist when the table is full. */
	add(overflow_name, find_place(overflow_name));
}

struct counter *counter_get(const char *name)
{
	uint16_t *place;

	if (!table.entry)
		create();
	if (name_valid(name)) {
		place = find_place(name);
		if (*place)
			return &table.entry[*place - 1];
		if (table.count < COUNTERS_MAX)
			return add(name, place);
	}
	if (!table.overflowed)
		log_warn("counters: no place for %s (at most %d series, each of at most %d octets, "
			 "well-formed): counted as %s",
			 name, COUNTERS_MAX, COUNTER_NAME_SIZE - 1, overflow_name);
	table.overflowed = true;
	return &table.entry[*find_place(overflow_name) - 1];
}

const struct counter *counter_at(uint32_t n)
{
	return n < table.count ? &table.entry[n] : NULL;
}

uint32_t counter_count(void)
{
	return table.count;
}

size_t counter_table_size(void)
{
	return COUNTERS_MAX * sizeof(struct counter);
}

/* Entries of the file join those that were registered already; these keep their places,
 * because pointers to them are out. */
static void merge(const struct counter *old)
{
	for (uint32_t i = 0; i < COUNTERS_MAX; i++) {
		struct counter *c;

		if (!counter_valid(&old[i]))
			continue;
		c = counter_get(old[i].name);
		if (c->kind == COUNTER_TOTAL)
			c->value += old[i].value;
	}
}

int counter_table_attach(int fd, int64_t offset, bool adopt)
{
	size_t size = counter_table_size();
	void *file;

	if (!table.entry)
		create();
	file = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
	if (file == MAP_FAILED)
		return -errno;
	if (adopt)
		merge(file);
	memcpy(file, table.entry, size);
	munmap(file, size);
	if (mmap(table.entry, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset) == MAP_FAILED)
		return -errno;
	return 0;
}

int counter_table_detach(void)
{
	size_t size = counter_table_size();
	size_t used = table.count * sizeof(struct counter);
	struct counter *copy = malloc(used);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, table.entry, used);
	if (mmap(table.entry, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	    MAP_FAILED) {
		int error = -errno;

		free(copy);
		return error;
	}
	memcpy(table.entry, copy, used);
	free(copy);
	return 0;
}
