/* SPDX-License-Identifier: Apache-2.0 */
#include "egress_probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"

enum {
	DISCARD_PORT = 9,
	CAPTURE_NS = 1000000000,
	PAYLOAD_SIZE = 16,
	HEADERS_SIZE = 48, /* IPv6 and UDP */
};

static const char group[] = "ff02::114";

static int fail(int r, const char *interface, const char *what, char *error, size_t error_size)
{
	snprintf(error, error_size, "interface %s: %s: %s", interface, what, strerror(-r));
	return r;
}

/* Is it there, and up? *loopback: is it that? */
static int look_at(struct egress_probe *p, const char *interface, bool *loopback, char *error,
		   size_t error_size)
{
	struct ifreq request = {0};

	p->ifindex = strlen(interface) < sizeof(request.ifr_name) ? (int)if_nametoindex(interface) : 0;
	if (p->ifindex == 0) {
		snprintf(error, error_size, "interface %s: there is none of that name", interface);
		return -ENODEV;
	}
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
	if (ioctl(p->socket, SIOCGIFFLAGS, &request) != 0)
		return fail(-errno, interface, "its state cannot be read", error, error_size);
	*loopback = request.ifr_flags & IFF_LOOPBACK;
	if (!(request.ifr_flags & IFF_UP)) {
		snprintf(error, error_size, "interface %s: it is down (ip link set %s up)", interface,
			 interface);
		return -ENETDOWN;
	}
	if (!(request.ifr_flags & IFF_RUNNING)) {
		snprintf(error, error_size, "interface %s: its link is down: no carrier", interface);
		return -ENETDOWN;
	}
	return 0;
}

/* Bind to one of its addresses: a tentative one (duplicate address detection) is passed over. */
static int bind_address(const struct egress_probe *p, const char *interface, struct sockaddr_in6 *own)
{
	struct ifaddrs *all;
	int r = -EADDRNOTAVAIL;

	if (getifaddrs(&all) != 0)
		return -errno;
	for (const struct ifaddrs *a = all; a && r != 0; a = a->ifa_next) {
		if (!a->ifa_addr || a->ifa_addr->sa_family != AF_INET6 || strcmp(a->ifa_name, interface) != 0)
			continue;
		memcpy(own, a->ifa_addr, sizeof(*own));
		own->sin6_port = 0;
		if (bind(p->socket, (const struct sockaddr *)own, sizeof(*own)) == 0)
			r = 0;
	}
	freeifaddrs(all);
	return r;
}

static void fill_address(struct flow_address *out, const struct in6_addr *from)
{
	_Static_assert(sizeof(*out) == sizeof(*from), "an address is an address");
	memcpy(out, from, sizeof(*from));
}

static int connect_flow(struct egress_probe *p, const char *interface, bool loopback, char *error,
			size_t error_size)
{
	struct sockaddr_in6 own = {0}, peer = {.sin6_family = AF_INET6, .sin6_port = htons(DISCARD_PORT)};
	socklen_t length = sizeof(own);
	int one = 1, none = 0;
	int r = bind_address(p, interface, &own);

	if (r == -EADDRNOTAVAIL) {
		snprintf(error, error_size,
			 "interface %s: it has no IPv6 address to send from (IPv4 has no flow label: "
			 "there is nothing to mark)",
			 interface);
		return r;
	}
	if (r == 0 &&
	    (setsockopt(p->socket, SOL_SOCKET, SO_BINDTODEVICE, interface, (socklen_t)strlen(interface)) !=
		     0 ||
	     setsockopt(p->socket, IPPROTO_IPV6, IPV6_MULTICAST_IF, &p->ifindex, sizeof(p->ifindex)) != 0 ||
	     setsockopt(p->socket, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, &one, sizeof(one)) != 0 ||
	     setsockopt(p->socket, IPPROTO_IPV6, IPV6_UNICAST_HOPS, &one, sizeof(one)) != 0 ||
	     setsockopt(p->socket, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, &none, sizeof(none)) != 0))
		r = -errno;
	if (loopback)
		peer.sin6_addr = own.sin6_addr;
	else
		inet_pton(AF_INET6, group, &peer.sin6_addr);
	peer.sin6_scope_id = (uint32_t)p->ifindex;
	if (r == 0 && (connect(p->socket, (const struct sockaddr *)&peer, sizeof(peer)) != 0 ||
		       getsockname(p->socket, (struct sockaddr *)&own, &length) != 0))
		r = -errno;
	if (r < 0)
		return fail(r, interface, "a datagram cannot be sent from it", error, error_size);
	memset(&p->key, 0, sizeof(p->key));
	fill_address(&p->key.src, &own.sin6_addr);
	fill_address(&p->key.dst, &peer.sin6_addr);
	p->key.src_port = ntohs(own.sin6_port);
	p->key.dst_port = DISCARD_PORT;
	p->key.protocol = IPPROTO_UDP;
	p->key.family = 6;
	return 0;
}

/* Only our datagrams: the interface may be busy. What the filter sees begins with the IPv6 header. */
static int filter(int fd, uint16_t src_port)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
		BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 6, 0, 5),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 6),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 40),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)src_port << 16 | DISCARD_PORT, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, HEADERS_SIZE),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0 ? 0 : -errno;
}

static int open_capture(struct egress_probe *p, const char *interface, char *error, size_t error_size)
{
	/* All protocols: a socket for one does not see what is sent. */
	struct sockaddr_ll at = {
		.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = p->ifindex};
	int r;

	p->capture = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (p->capture < 0)
		return fail(-errno, interface, "nothing can be captured (it takes CAP_NET_RAW)", error,
			    error_size);
	r = filter(p->capture, p->key.src_port);
	if (r == 0 && bind(p->capture, (const struct sockaddr *)&at, sizeof(at)) != 0)
		r = -errno;
	return r == 0 ? 0 : fail(r, interface, "nothing can be captured", error, error_size);
}

int egress_probe_open(struct egress_probe *p, const char *interface, char *error, size_t error_size)
{
	bool loopback = false;
	int r;

	memset(p, 0, sizeof(*p));
	p->capture = -1;
	p->socket = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (p->socket < 0)
		return fail(-errno, interface, "this kernel gives no IPv6 socket", error, error_size);
	r = look_at(p, interface, &loopback, error, error_size);
	if (r == 0)
		r = connect_flow(p, interface, loopback, error, error_size);
	if (r == 0)
		r = open_capture(p, interface, error, error_size);
	if (r < 0)
		egress_probe_close(p);
	return r;
}

/* Take what was captured. */
static void take(const struct egress_probe *p, uint32_t label, struct egress_seen *seen)
{
	uint8_t packet[HEADERS_SIZE];
	struct sockaddr_ll from;
	socklen_t length = sizeof(from);
	uint32_t word;

	while (recvfrom(p->capture, packet, sizeof(packet), 0, (struct sockaddr *)&from, &length) ==
	       sizeof(packet)) {
		length = sizeof(from);
		/* On the loopback interface each comes in, too. */
		if (from.sll_pkttype != PACKET_OUTGOING)
			continue;
		memcpy(&word, packet, sizeof(word));
		seen->captured++;
		if ((ntohl(word) & 0xFFFFF) == label)
			seen->labelled++;
		else
			seen->other_label = ntohl(word) & 0xFFFFF;
	}
}

int egress_probe_send(struct egress_probe *p, uint32_t count, uint32_t label, struct egress_seen *seen,
		      char *error, size_t error_size)
{
	static const char payload[PAYLOAD_SIZE] = "flowd-lua test";
	uint64_t deadline;

	memset(seen, 0, sizeof(*seen));
	for (uint32_t i = 0; i < count; i++) {
		ssize_t n = send(p->socket, payload, sizeof(payload), 0);

		/* Of ::1 nobody reads it, and the kernel says so with the next one. */
		if (n < 0 && errno == ECONNREFUSED)
			n = send(p->socket, payload, sizeof(payload), 0);
		if (n < 0) {
			snprintf(error, error_size, "a datagram cannot be sent: %s", strerror(errno));
			return -errno;
		}
		seen->sent++;
	}
	deadline = clock_monotonic_ns() + CAPTURE_NS;
	do {
		struct pollfd wait = {.fd = p->capture, .events = POLLIN};

		poll(&wait, 1, 20);
		take(p, label, seen);
	} while (seen->captured < seen->sent && clock_monotonic_ns() < deadline);
	return 0;
}

void egress_probe_close(struct egress_probe *p)
{
	if (p->socket >= 0)
		close(p->socket);
	if (p->capture >= 0)
		close(p->capture);
	p->socket = p->capture = -1;
}
