/* SPDX-License-Identifier: Apache-2.0 */
/* marker.c - the BPF programs: loaded, attached by name of interface, counted, run on trial. */
#include "marker.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/if_arp.h> /* after net/if.h */

#include "label.skel.h"
#include "log.h"
#include "marker_early.h"
#include "marker_internal.h"
#include "privileges.h"

/* libbpf's messages are details of errors that we report by ourselves. */
static int print_libbpf(enum libbpf_print_level level, const char *format, va_list args)
{
	char text[1024];
	int length;

	if (level == LIBBPF_DEBUG || !log_enabled(LOG_LEVEL_DEBUG))
		return 0;
	length = vsnprintf(text, sizeof(text), format, args);
	log_debug("%.*s", (int)strcspn(text, "\n"), text);
	return length;
}

/* Append to a message which capability is missing, if that is why. */
static void add_hint(int r, uint32_t needed, char *error, size_t error_size)
{
	size_t used = strlen(error);

	if (r == -EPERM || r == -EACCES)
		privileges_explain(needed, error + used, error_size - used);
}

/* Make a marker whose maps are those that are pinned, or new ones. 0 or -errno. */
static int load(struct marker *m, uint32_t marks_max)
{
	int r = marks_max > 0 ? marker_load(m, marks_max) : -EINVAL;

	if (r == 0)
		r = marker_table_open(&m->table, marks_max);
	return r == 0 && m->reused ? marker_table_adopt(&m->table) : r;
}

int marker_new(struct marker **out)
{
	struct marker *m = calloc(1, sizeof(*m));
	int r;

	*out = m;
	if (!m)
		return -ENOMEM;
	m->clock_program = -1;
	r = libbpf_num_possible_cpus();
	if (r < 0)
		return r;
	m->cpus = (uint32_t)r;
	return 0;
}

struct marker *marker_open_pinned(uint32_t marks_max, const char *directory, char *error, size_t error_size)
{
	struct marker *m = marker_early_take();
	int r = m ? 0 : marker_new(&m);
	int pinned = 0;

	libbpf_set_print(print_libbpf);
	if (r < 0)
		goto fail;
	if (directory) {
		pinned = marker_pins_open(&m->pins, directory);
		m->adopting = true;
	}
	r = load(m, marks_max);
	if (r != 0)
		goto fail;
	/* Of a marker that is not there nobody wants to know what it could not have kept. */
	if (pinned < 0)
		marker_pins_warn(directory, pinned);
	return m;
fail:
	snprintf(error, error_size, "cannot load the marking program: %s", strerror(-r));
	add_hint(r, PRIVILEGES_ALL, error, error_size);
	marker_close(m);
	return NULL;
}

struct marker *marker_open(uint32_t marks_max, char *error, size_t error_size)
{
	return marker_open_pinned(marks_max, NULL, error, error_size);
}

bool marker_adopted(const struct marker *m)
{
	return m->reused;
}

void marker_settle(struct marker *m)
{
	if (!m->adopting)
		return;
	marker_flush(m);
	marker_table_settle(&m->table);
	marker_load_writer(m);
	for (uint32_t i = 0; i < m->links_count; i++) {
		struct marker_link *link = &m->links[i];
		int r = link->pending ? marker_link_renew(link, marker_load_program(m, link->bare)) : 0;

		/* Not alive without its program: whoever asks finds out and attaches anew. */
		if (r < 0)
			log_warn("marker: interface %s: cannot go on with what is attached: %s", link->name,
				 strerror(-r));
	}
	m->adopting = false;
	if (!m->reused)
		marker_pins_maps(&m->pins, m->skeleton->obj);
	marker_pins_sweep(&m->pins, m->links, m->links_count);
}

void marker_close(struct marker *m)
{
	int r;

	if (!m)
		return;
	for (uint32_t i = 0; i < m->links_count; i++)
		marker_link_detach(&m->links[i], &m->pins);
	r = marker_pins_remove(&m->pins);
	if (r < 0)
		log_warn("marker: %s is left: %s", m->pins.directory,
			 r == -ENOTEMPTY ? "something that is not ours is in it" : strerror(-r));
	free(m->links);
	marker_table_close(&m->table);
	if (m->cpu)
		munmap(m->cpu, m->cpus * sizeof(*m->cpu));
	if (m->clock_program >= 0)
		close(m->clock_program);
	label_bpf__destroy(m->skeleton);
	free(m);
}

static struct marker_link *find_link(const struct marker *m, const char *interface)
{
	for (uint32_t i = 0; i < m->links_count; i++) {
		if (strcmp(m->links[i].name, interface) == 0)
			return &m->links[i];
	}
	return NULL;
}

/* Does the first octet of an interface's packets belong to the IP header? 1, 0 or -errno. */
static int is_bare(const char *interface, char *error, size_t error_size)
{
	struct ifreq request = {0};
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int r = 0;

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
	if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &request) < 0)
		r = -errno;
	if (fd >= 0)
		close(fd);
	if (r < 0) {
		snprintf(error, error_size, "interface %s: %s", interface, strerror(-r));
		return r;
	}
	switch (request.ifr_hwaddr.sa_family) {
	case ARPHRD_ETHER:
	case ARPHRD_LOOPBACK:
		return 0;
	case ARPHRD_NONE: /* tun, wireguard */
	case ARPHRD_PPP:
	case ARPHRD_RAWIP:
	case ARPHRD_TUNNEL:
	case ARPHRD_TUNNEL6:
	case ARPHRD_SIT:
	case ARPHRD_IPGRE:
	case ARPHRD_IP6GRE:
		return 1;
	}
	snprintf(error, error_size, "interface %s: packets of its kind (ARPHRD type %u) cannot be marked",
		 interface, request.ifr_hwaddr.sa_family);
	return -EOPNOTSUPP;
}

int marker_attach(struct marker *m, const char *interface, int method, char *error, size_t error_size)
{
	struct marker_link link = {.fd = -1}, *links;
	int r;

	if (find_link(m, interface)) {
		snprintf(error, error_size, "interface %s: marked already", interface);
		return -EEXIST;
	}
	link.ifindex = strlen(interface) < sizeof(link.name) ? (int)if_nametoindex(interface) : 0;
	if (link.ifindex == 0) {
		snprintf(error, error_size, "interface %s: there is none of that name", interface);
		return -ENODEV;
	}
	snprintf(link.name, sizeof(link.name), "%s", interface);
	r = is_bare(interface, error, error_size);
	if (r < 0)
		return r;
	link.bare = r == 1;
	r = link.bare ? marker_load_bare(m) : 0;
	if (r < 0) {
		snprintf(error, error_size, "interface %s: cannot load its program: %s", interface,
			 strerror(-r));
		add_hint(r, PRIVILEGES_ALL, error, error_size);
		return r;
	}
	links = realloc(m->links, (m->links_count + 1) * sizeof(*links));
	if (!links) {
		snprintf(error, error_size, "interface %s: out of memory", interface);
		return -ENOMEM;
	}
	m->links = links;
	r = marker_link_attach(&link, &m->pins, marker_load_program(m, link.bare), method, m->adopting, error,
			       error_size);
	if (r < 0) {
		add_hint(r, PRIVILEGE_NET_ADMIN, error, error_size);
		return r;
	}
	m->links[m->links_count++] = link;
	return 0;
}

int marker_detach(struct marker *m, const char *interface)
{
	struct marker_link *link = find_link(m, interface);

	if (!link)
		return -ENOENT;
	marker_link_detach(link, &m->pins);
	*link = m->links[--m->links_count];
	return 0;
}

int marker_reattach(struct marker *m, const char *interface, int method, char *error, size_t error_size)
{
	struct marker_link *link = find_link(m, interface), old;
	int r;

	if (!link)
		return -ENOENT;
	if (link->method == method || (method == MARKER_AUTO && link->method == MARKER_TCX))
		return 0;
	old = *link;
	*link = m->links[--m->links_count];
	r = marker_attach(m, interface, method, error, error_size);
	if (r < 0) {
		/* Its place is still there. */
		m->links[m->links_count++] = old;
		return r;
	}
	if (m->links[m->links_count - 1].method == old.method) {
		/* auto, where there is no better one: replaced in place */
		if (old.fd >= 0)
			close(old.fd);
		return 0;
	}
	marker_link_detach(&old, &m->pins);
	return 0;
}

int marker_attached(const struct marker *m, const char *interface)
{
	const struct marker_link *link = find_link(m, interface);

	return link && marker_link_alive(link) ? link->method : -ENOENT;
}

void marker_forget_sockets(struct marker *m)
{
	struct marker_flows *f = &m->table.flows;

	for (uint32_t at = 0; at < f->capacity; at++) {
		if (marker_flows_taken(f, at))
			marker_flows_forget_socket(f, at);
	}
}

uint32_t marker_faults(const struct marker *m)
{
	return marker_flows_faults(&m->table.flows);
}

int marker_run(struct marker *m, bool ethernet, struct marker_packet_run *run)
{
	struct bpf_test_run_opts opts = {.sz = sizeof(opts),
					 .data_in = run->packet,
					 .data_size_in = run->length,
					 .data_out = run->out,
					 .data_size_out = run->length,
					 .repeat = (int)run->repeat};
	int r = ethernet ? 0 : marker_load_bare(m);

	if (r == 0)
		r = bpf_prog_test_run_opts(marker_load_program(m, !ethernet), &opts);
	if (r < 0)
		return r;
	run->out_length = opts.data_size_out;
	run->verdict = (int32_t)opts.retval;
	run->duration_ns = opts.duration;
	return 0;
}
