/* SPDX-License-Identifier: Apache-2.0 */
/*
 * feed LINES FIFO [RATE] - write the file LINES into FIFO, as fast as it takes them, or RATE
 * lines a second (each millisecond's share at once; over and over until it is killed). Prints
 * CLOCK_MONOTONIC in nanoseconds just before the first write.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void write_all(int fd, const char *text, size_t length)
{
	while (length > 0) {
		ssize_t n = write(fd, text, length);

		if (n < 0)
			err(1, "write");
		text += n;
		length -= (size_t)n;
	}
}

/* The octet after `lines` more lines. */
static const char *skip_lines(const char *at, const char *end, uint64_t lines)
{
	while (lines-- > 0 && at < end) {
		at = memchr(at, '\n', (size_t)(end - at));
		if (!at)
			return end;
		at++;
	}
	return at;
}

static void feed_paced(int fd, const char *text, size_t length, uint64_t rate)
{
	const char *end = text + length, *at = text;
	uint64_t start = now_ns(), fed = 0;

	for (uint64_t tick = 1;; tick++) {
		uint64_t due = rate * tick / 1000;
		const char *next = skip_lines(at, end, due - fed);
		uint64_t wake = start + tick * 1000000u;
		struct timespec until = {(time_t)(wake / 1000000000u), (long)(wake % 1000000000u)};

		write_all(fd, at, (size_t)(next - at));
		fed = due;
		at = next < end ? next : text;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	}
}

int main(int argc, char **argv)
{
	struct stat st;
	const char *text;
	int file, fd;

	if (argc < 3)
		errx(2, "usage: feed LINES FIFO [RATE]");
	file = open(argv[1], O_RDONLY);
	if (file < 0 || fstat(file, &st) != 0)
		err(1, "%s", argv[1]);
	text = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
	fd = open(argv[2], O_WRONLY);
	if (text == MAP_FAILED || fd < 0)
		err(1, "%s", argv[2]);
	printf("%" PRIu64 "\n", now_ns());
	fflush(stdout);
	if (argc > 3)
		feed_paced(fd, text, (size_t)st.st_size, strtoull(argv[3], NULL, 10));
	write_all(fd, text, (size_t)st.st_size);
	return 0;
}
