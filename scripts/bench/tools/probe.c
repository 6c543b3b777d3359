/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe - how long from a line to the first labelled packet of a running stream.
 *
 *   probe FIFO ROUNDS   a UDP stream on ::1 (one packet under way at a time); each round writes
 *                       the flow's start line, waits for a labelled packet, writes the end
 *                       line, waits for one without. Prints each round's nanoseconds.
 *   probe - ROUNDS      the baseline: the same with a bare reader of a pipe, which notes that it
 *                       was woken, in place of the daemon.
 *   probe FIFO          writes the start line into the FIFO, prints "armed", and when the first
 *                       labelled packet came, CLOCK_MONOTONIC in nanoseconds. The FIFO may have
 *                       no reader yet. The stream has a packet every 0.1 ms or so.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SOURCE_PORT 45000
#define PORT 45001
#define TAG "2 26"
#define LABEL 0x10068u
#define LABEL_MASK 0x3FEFCu
#define IPV6_RECEIVE_FLOWINFO 11 /* IPV6_FLOWINFO of linux/in6.h, which clashes with netinet/in.h */
#define IPV6_AUTOMATIC_LABEL 70
#define PAUSE_US 100 /* so long does a daemon that starts have the processor, too */
#define GIVE_UP_NS 20000000000u

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int open_socket(uint16_t port, uint16_t peer)
{
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	int fd = socket(AF_INET6, SOCK_DGRAM, 0), on = 1, off = 0;

	setsockopt(fd, IPPROTO_IPV6, IPV6_RECEIVE_FLOWINFO, &on, sizeof(on));
	/* Without the daemon's, no label at all: a random one could look like ours. */
	setsockopt(fd, IPPROTO_IPV6, IPV6_AUTOMATIC_LABEL, &off, sizeof(off));
	address.sin6_port = htons(port);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		err(1, "port %u", port);
	address.sin6_port = htons(peer);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		err(1, "port %u", peer);
	return fd;
}

/* One packet through lo: was it labelled? */
static bool labelled(int out, int in)
{
	char octet = 'x';
	uint64_t control[8];
	struct iovec iov = {&octet, 1};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	uint32_t flowinfo = 0;

	if (send(out, &octet, 1, 0) != 1 || recvmsg(in, &message, 0) != 1)
		err(1, "stream");
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
		if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECEIVE_FLOWINFO)
			memcpy(&flowinfo, CMSG_DATA(c), sizeof(flowinfo));
	return (ntohl(flowinfo) & LABEL_MASK) == LABEL;
}

static uint64_t wait_until(int out, int in, bool with_label, useconds_t pause)
{
	uint64_t start = now_ns();

	while (labelled(out, in) != with_label) {
		if (now_ns() - start > GIVE_UP_NS)
			errx(1, "no packet %s a label within 20 s", with_label ? "with" : "without");
		if (pause)
			usleep(pause);
	}
	return now_ns();
}

static void write_line(int fd, const char *state)
{
	char line[128];
	int length = snprintf(line, sizeof(line), "%s udp ::1 %d ::1 %d " TAG "\n", state, SOURCE_PORT, PORT);

	if (write(fd, line, (size_t)length) != length)
		err(1, "write");
}

/* The daemon is asleep, at no fixed phase of anything. */
static void let_it_sleep(void)
{
	usleep((useconds_t)(500 + random() % 2000));
}

static void measure_bare_reader(int out, int in, int rounds)
{
	volatile int *woken = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int ends[2];

	if (woken == MAP_FAILED || pipe(ends) != 0)
		err(1, "pipe");
	if (fork() == 0) {
		char octet;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (read(ends[0], &octet, 1) == 1)
			*woken += 1;
		_exit(0);
	}
	for (int i = 1; i <= rounds; i++) {
		uint64_t written;

		let_it_sleep();
		written = now_ns();
		if (write(ends[1], "x", 1) != 1)
			err(1, "write");
		while (*woken != i)
			labelled(out, in);
		printf("%" PRIu64 "\n", now_ns() - written);
	}
}

int main(int argc, char **argv)
{
	int out = open_socket(SOURCE_PORT, PORT), in = open_socket(PORT, SOURCE_PORT);
	int fifo, rounds = argc > 2 ? atoi(argv[2]) : 0;

	if (argc < 2)
		errx(2, "usage: probe FIFO [ROUNDS]");
	srandom(1);
	if (strcmp(argv[1], "-") == 0) {
		measure_bare_reader(out, in, rounds);
		return 0;
	}
	/* O_RDWR: opens at once, and keeps the line until there is a reader. */
	fifo = open(argv[1], rounds ? O_WRONLY : O_RDWR);
	if (fifo < 0)
		err(1, "%s", argv[1]);
	if (!rounds) {
		write_line(fifo, "start");
		puts("armed");
		fflush(stdout);
		printf("%" PRIu64 "\n", wait_until(out, in, true, PAUSE_US));
		return 0;
	}
	for (int i = 0; i < rounds; i++) {
		uint64_t written, seen;

		let_it_sleep();
		written = now_ns();
		write_line(fifo, "start");
		seen = wait_until(out, in, true, 0);
		printf("%" PRIu64 "\n", seen - written);
		write_line(fifo, "end");
		wait_until(out, in, false, 0);
	}
	return 0;
}
