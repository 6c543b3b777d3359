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
#include <sys/socket.h>
#include <unistd.h>
#include <linux/if_arp.h> /* after net/if.h */

#include "label.skel.h"
#include "log.h"
#include "marker_filter.h"
#include "marker_internal.h"
#include "privileges.h"

_Static_assert(sizeof(((struct marker_counts *)0)->packets) == MARKER_PACKET_KINDS * sizeof(uint64_t),
	       "a counter for every enum marker_packet");
_Static_assert(sizeof(((struct marker_counts *)0)->refused) == MARKER_REFUSALS * sizeof(uint64_t),
	       "a counter for every enum marker_refusal");
_Static_assert(sizeof(((struct label_bpf__bss *)0)->local_ports) * 8 == 65536, "a bit for every port");
_Static_assert(sizeof(((struct label_bpf__bss *)0)->flow_filter) * 8 == MARKER_FILTER_BITS,
	       "a bit for every hash");

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
	int r;

	m->skeleton = label_bpf__open();
	if (!m->skeleton)
		return -errno;
	r = bpf_map__set_max_entries(m->skeleton->maps.marks, marks_max);
	if (r < 0)
		return r;
	m->reused = marker_pins_reuse(&m->pins, m->skeleton->obj);
	r = label_bpf__load(m->skeleton);
	if (r < 0)
		return r;
	r = marker_table_open(&m->table, bpf_map__fd(m->skeleton->maps.marks),
			      (uint64_t *)m->skeleton->bss->local_ports,
			      (uint64_t *)m->skeleton->bss->flow_filter);
	return r == 0 && m->reused ? marker_table_adopt(&m->table) : r;
}

struct marker *marker_open_pinned(uint32_t marks_max, const char *directory, char *error, size_t error_size)
{
	struct marker *m = calloc(1, sizeof(*m));
	int r = -ENOMEM;

	if (!m)
		goto fail;
	libbpf_set_print(print_libbpf);
	m->cpus = libbpf_num_possible_cpus();
	m->cpu_values = calloc(m->cpus > 0 ? (size_t)m->cpus : 1, sizeof(*m->cpu_values));
	if (!m->cpu_values)
		goto fail;
	if (directory) {
		marker_pins_open(&m->pins, directory);
		m->adopting = true;
	}
	r = load(m, marks_max);
	if (r == 0)
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

uint64_t *marker_counted(struct marker *m)
{
	return (uint64_t *)m->skeleton->bss->counted;
}

void marker_settle(struct marker *m)
{
	if (!m->adopting)
		return;
	marker_flush(m);
	marker_table_settle(&m->table);
	for (uint32_t i = 0; i < m->links_count; i++) {
		int r = marker_link_renew(&m->links[i]);

		/* Not alive without its program: whoever asks finds out and attaches anew. */
		if (r < 0)
			log_warn("marker: interface %s: cannot go on with what is attached: %s",
				 m->links[i].name, strerror(-r));
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
	free(m->cpu_values);
	marker_table_close(&m->table);
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

/* The program for an interface, by what its packets start with: its descriptor or -errno. */
static int program_for(const struct marker *m, const char *interface, char *error, size_t error_size)
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
		return bpf_program__fd(m->skeleton->progs.label_ethernet);
	case ARPHRD_NONE: /* tun, wireguard */
	case ARPHRD_PPP:
	case ARPHRD_RAWIP:
	case ARPHRD_TUNNEL:
	case ARPHRD_TUNNEL6:
	case ARPHRD_SIT:
	case ARPHRD_IPGRE:
	case ARPHRD_IP6GRE:
		return bpf_program__fd(m->skeleton->progs.label_bare);
	}
	snprintf(error, error_size, "interface %s: packets of its kind (ARPHRD type %u) cannot be marked",
		 interface, request.ifr_hwaddr.sa_family);
	return -EOPNOTSUPP;
}

int marker_attach(struct marker *m, const char *interface, int method, char *error, size_t error_size)
{
	struct marker_link link = {.fd = -1, .next_program = -1}, *links;
	int program, r;

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
	program = program_for(m, interface, error, error_size);
	if (program < 0)
		return program;
	links = realloc(m->links, (m->links_count + 1) * sizeof(*links));
	if (!links) {
		snprintf(error, error_size, "interface %s: out of memory", interface);
		return -ENOMEM;
	}
	m->links = links;
	r = marker_link_attach(&link, &m->pins, program, method, m->adopting, error, error_size);
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

void marker_counts(const struct marker *m, struct marker_counts *out)
{
	int fd = bpf_map__fd(m->skeleton->maps.packets);

	*out = m->table.counts;
	for (uint32_t kind = 0; kind < MARKER_PACKET_KINDS; kind++) {
		if (bpf_map_lookup_elem(fd, &kind, m->cpu_values) < 0)
			continue;
		for (int i = 0; i < m->cpus; i++)
			out->packets[kind] += m->cpu_values[i];
	}
}

int marker_run(const struct marker *m, bool ethernet, struct marker_packet_run *run)
{
	const struct bpf_program *program =
		ethernet ? m->skeleton->progs.label_ethernet : m->skeleton->progs.label_bare;
	struct bpf_test_run_opts opts = {.sz = sizeof(opts),
					 .data_in = run->packet,
					 .data_size_in = run->length,
					 .data_out = run->out,
					 .data_size_out = run->length,
					 .repeat = (int)run->repeat};
	int r = bpf_prog_test_run_opts(bpf_program__fd(program), &opts);

	if (r < 0)
		return r;
	run->out_length = opts.data_size_out;
	run->verdict = (int32_t)opts.retval;
	run->duration_ns = opts.duration;
	return 0;
}
