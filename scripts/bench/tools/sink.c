/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink PORT COUNTERS - a collector that only counts: start and end fireflies that reach
 * ::1 port PORT, into the shared file COUNTERS (struct sink_counters, see bench.lua).
 * The receive buffer is forced large and UDP_GRO stays off: each datagram is received. It
 * looks every half millisecond: a receiver that sleeps until the next datagram comes would
 * have the sender pay for waking it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/sock_diag.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 256
#define HEAD 256 /* octets that are looked at: the state is among the first members */

struct sink_counters {
	uint64_t datagrams, octets, starts, ends;
	uint64_t first_ns, last_ns; /* CLOCK_MONOTONIC of the first and last batch */
	uint64_t dropped;           /* by this socket's buffer */
	uint64_t ready;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int open_socket(uint16_t port)
{
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	int fd = socket(AF_INET6, SOCK_DGRAM, 0), size = 1 << 30;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) != 0 ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		err(1, "port %u", port);
	return fd;
}

static void count(volatile struct sink_counters *c, const char *head, const struct mmsghdr *message)
{
	size_t length = message->msg_len < HEAD ? message->msg_len : HEAD;

	if (memmem(head, length, "\"start\"", 7))
		c->starts++;
	else if (memmem(head, length, "\"end\"", 5))
		c->ends++;
	c->datagrams++;
	c->octets += message->msg_len;
}

/* Asked, not awaited: SO_RXQ_OVFL comes with the next datagram, and the last ones have none. */
static uint32_t drops(int fd)
{
	uint32_t memory[SK_MEMINFO_VARS];
	socklen_t size = sizeof(memory);

	if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &size) != 0)
		err(1, "SO_MEMINFO");
	return memory[SK_MEMINFO_DROPS];
}

int main(int argc, char **argv)
{
	static char head[BATCH][HEAD];
	static struct iovec iov[BATCH];
	static struct mmsghdr message[BATCH];
	volatile struct sink_counters *c;
	int fd, file;

	if (argc != 3)
		errx(2, "usage: sink PORT COUNTERS");
	fd = open_socket((uint16_t)atoi(argv[1]));
	file = open(argv[2], O_RDWR);
	if (file < 0)
		err(1, "%s", argv[2]);
	c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (c == MAP_FAILED)
		err(1, "%s", argv[2]);
	c->ready = 1;
	for (;;) {
		const struct timespec half_millisecond = {0, 500000};

		for (int i = 0; i < BATCH; i++) {
			iov[i] = (struct iovec){head[i], HEAD};
			message[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
		}
		/* MSG_TRUNC: the true length, though only the head is copied. */
		int n = recvmmsg(fd, message, BATCH, MSG_DONTWAIT | MSG_TRUNC, NULL);

		if (n < 0) {
			if (errno != EAGAIN)
				err(1, "recvmmsg");
			c->dropped = drops(fd);
			nanosleep(&half_millisecond, NULL);
			continue;
		}
		c->last_ns = now_ns();
		if (c->first_ns == 0)
			c->first_ns = c->last_ns;
		for (int i = 0; i < n; i++)
			count(c, head[i], &message[i]);
	}
}
