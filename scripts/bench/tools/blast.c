/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blast PORT LENGTH COUNT - the baseline: send COUNT datagrams of LENGTH octets to ::1 port
 * PORT with a bare sendmmsg loop, 64 a call. Prints the nanoseconds that it took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 64

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
	static char text[65536];
	static struct iovec iov[BATCH];
	static struct mmsghdr message[BATCH];
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	int fd = socket(AF_INET6, SOCK_DGRAM, 0);
	uint64_t start, sent = 0, total;

	if (argc != 4)
		errx(2, "usage: blast PORT LENGTH COUNT");
	address.sin6_port = htons((uint16_t)atoi(argv[1]));
	total = strtoull(argv[3], NULL, 10);
	memset(text, ' ', sizeof(text));
	for (int i = 0; i < BATCH; i++) {
		iov[i] = (struct iovec){text, strtoul(argv[2], NULL, 10)};
		message[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
	}
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		err(1, "connect");
	start = now_ns();
	while (sent < total) {
		int n = sendmmsg(fd, message, total - sent < BATCH ? (unsigned int)(total - sent) : BATCH, 0);

		if (n < 0)
			err(1, "sendmmsg");
		sent += (uint64_t)n;
	}
	printf("%" PRIu64 "\n", now_ns() - start);
	return 0;
}
