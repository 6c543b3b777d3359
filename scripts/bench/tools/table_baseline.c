/* SPDX-License-Identifier: Apache-2.0 */
/*
 * table_baseline.c - what the flow table is compared with: uthash, one malloc a flow.
 *
 * Usage: table_baseline FLOWS   (events come in the same order as in scripts/bench/table.lua)
 * Prints: ns per insert, per look-up, per delete; octets per flow.
 */
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uthash.h>

enum { BATCH = 1024 };

struct key {
	uint32_t word[10];
};

/* The same octets of decisions that a slot of the flow table has. */
struct flow {
	struct key key;
	uint64_t start_us, seen_us, bytes_sent, bytes_received;
	uint32_t label;
	int32_t route;
	uint16_t experiment, activity, source, rule;
	char application[48];
	UT_hash_handle hh;
};

static struct flow *table;

static uint64_t now_ns(void)
{
	struct timespec t;

	/* Others may be at work on the machine. */
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Flow number `n` of the key space; `n` is spread so that neighbours in time are none in the table. */
static void make_key(struct key *key, uint32_t n)
{
	memset(key, 0, sizeof(*key));
	key->word[0] = key->word[4] = 0x00b80120;
	key->word[7] = n / 32;
	key->word[8] = 1094 | (1024 + n % 32) << 16;
	key->word[9] = 6 | 6 << 8;
}

static void insert(const struct key *key, uint64_t time)
{
	struct flow *f;

	HASH_FIND(hh, table, key, sizeof(*key), f);
	if (f)
		return;
	f = calloc(1, sizeof(*f));
	if (!f)
		abort();
	f->key = *key;
	f->start_us = f->seen_us = time;
	f->experiment = 2;
	f->activity = 26;
	memcpy(f->application, "xrdcp", 6);
	HASH_ADD(hh, table, key, sizeof(f->key), f);
}

static void look_up(const struct key *key, uint64_t time)
{
	struct flow *f;

	HASH_FIND(hh, table, key, sizeof(*key), f);
	if (f)
		f->seen_us = time;
}

static void delete(const struct key *key, uint64_t time)
{
	struct flow *f;

	(void)time;
	HASH_FIND(hh, table, key, sizeof(*key), f);
	if (f) {
		HASH_DEL(table, f);
		free(f);
	}
}

/* ns per operation; each of 0..n-1 once, in the order of a stride. */
static double measure(void (*operation)(const struct key *, uint64_t), uint32_t n, uint32_t stride)
{
	static struct key key[BATCH];
	uint64_t taken = 0, at = 0;

	for (uint32_t done = 0; done < n; done += BATCH) {
		uint32_t count = n - done < BATCH ? n - done : BATCH;
		uint64_t start;

		for (uint32_t i = 0; i < count; i++) {
			make_key(&key[i], (uint32_t)at);
			at = (at + stride) % n;
		}
		start = now_ns();
		for (uint32_t i = 0; i < count; i++)
			operation(&key[i], start);
		taken += now_ns() - start;
	}
	return (double)taken / n;
}

int main(int argc, char **argv)
{
	uint32_t n = argc == 2 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
	double insert_ns, look_up_ns, delete_ns, octets;
	size_t before;

	if (n == 0) {
		fprintf(stderr, "usage: table_baseline FLOWS\n");
		return 2;
	}
	before = mallinfo2().uordblks + mallinfo2().hblkhd;
	insert_ns = measure(insert, n, 7919);
	if (HASH_COUNT(table) != n)
		abort();
	octets = (double)(mallinfo2().uordblks + mallinfo2().hblkhd - before) / n;
	look_up_ns = measure(look_up, n, 104729);
	delete_ns = measure(delete, n, 15485863 % n | 1);
	if (HASH_COUNT(table) != 0)
		abort();
	printf("%.1f %.1f %.1f %.1f\n", insert_ns, look_up_ns, delete_ns, octets);
	return 0;
}
