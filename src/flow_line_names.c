/* SPDX-License-Identifier: Apache-2.0 */
/* The names of experiments and activities that flow lines may use: a hash table. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "flow_line.h"

struct name_entry {
	uint32_t hash;
	uint16_t experiment; /* whose activity it is; 0: the name of an experiment */
	uint16_t id;	     /* 0: the entry is free */
	uint8_t length;
	char name[FLOW_LINE_NAME_SIZE - 1]; /* normalised, not NUL-terminated */
};

/* Open addressing; a power of two, at most half full. */
static struct {
	struct name_entry *entries;
	uint32_t size;
	uint32_t used;
} names;

/* The form in which names are compared: lower case, '_' for a blank. */
static char normalise(char ch)
{
	if (ch >= 'A' && ch <= 'Z')
		return (char)(ch | 0x20);
	return ch == ' ' ? '_' : ch;
}

static uint32_t hash_name(uint32_t experiment, const char *name, size_t length, char *out)
{
	uint32_t hash = 2166136261U ^ experiment; /* FNV-1a */

	for (size_t i = 0; i < length; i++) {
		out[i] = normalise(name[i]);
		hash = (hash ^ (uint8_t)out[i]) * 16777619U;
	}
	return hash ^ hash >> 15;
}

/* The entry of a name, or the free one where it belongs. */
static struct name_entry *probe(uint32_t hash, uint32_t experiment, const char *name, size_t length)
{
	uint32_t i = hash & (names.size - 1);

	while (names.entries[i].id != 0) {
		struct name_entry *entry = &names.entries[i];

		if (entry->hash == hash && entry->experiment == experiment && entry->length == length &&
		    memcmp(entry->name, name, length) == 0)
			return entry;
		i = (i + 1) & (names.size - 1);
	}
	return &names.entries[i];
}

static int grow(void)
{
	struct name_entry *old = names.entries;
	uint32_t old_size = names.size;
	uint32_t size = old_size ? old_size * 2 : 256;
	struct name_entry *entries = calloc(size, sizeof(*entries));

	if (!entries)
		return -ENOMEM;
	names.entries = entries;
	names.size = size;
	for (uint32_t i = 0; i < old_size; i++) {
		const struct name_entry *entry = &old[i];

		if (entry->id != 0)
			*probe(entry->hash, entry->experiment, entry->name, entry->length) = *entry;
	}
	free(old);
	return 0;
}

void flow_line_names_clear(void)
{
	free(names.entries);
	memset(&names, 0, sizeof(names));
}

int flow_line_name_add(uint32_t experiment, uint32_t activity, const char *name)
{
	size_t length = strlen(name);
	uint32_t scope = activity ? experiment : 0;
	uint32_t id = activity ? activity : experiment;
	char normal[FLOW_LINE_NAME_SIZE];
	struct name_entry *entry;
	uint32_t hash;

	if (experiment < 1 || experiment > FLOW_EXPERIMENT_MAX || activity > FLOW_ACTIVITY_MAX || length == 0)
		return -EINVAL;
	if (length >= FLOW_LINE_NAME_SIZE)
		return -ENAMETOOLONG;
	if (names.used * 2 >= names.size) {
		int err = grow();

		if (err)
			return err;
	}
	hash = hash_name(scope, name, length, normal);
	entry = probe(hash, scope, normal, length);
	if (entry->id != 0)
		return entry->id == id ? 0 : -EEXIST;
	entry->hash = hash;
	entry->experiment = (uint16_t)scope;
	entry->id = (uint16_t)id;
	entry->length = (uint8_t)length;
	memcpy(entry->name, normal, length);
	names.used++;
	return 0;
}

uint32_t flow_line_name_find(uint32_t experiment, const char *name, size_t length)
{
	char normal[FLOW_LINE_NAME_SIZE];
	uint32_t hash;

	if (names.used == 0 || length == 0 || length >= FLOW_LINE_NAME_SIZE)
		return 0;
	hash = hash_name(experiment, name, length, normal);
	return probe(hash, experiment, normal, length)->id;
}
