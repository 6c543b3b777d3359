/* SPDX-License-Identifier: Apache-2.0 */
#include "marker_early.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <net/if.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "handover.h"
#include "marker_internal.h"

enum { STACK_SIZE = 512 << 10, LINKS_MAX = 16 };

static struct {
	pthread_t thread;
	bool running;
	struct marker *marker; /* the thread's while it runs */
} loading;

static struct {
	pthread_t thread;
	bool running;
	int count;
	struct {
		int ifindex;
		int fd; /* the thread's while it runs */
	} link[LINKS_MAX];
} attaching;

/* A thread that takes no signal. */
static bool start(pthread_t *thread, void *(*function)(void *))
{
	pthread_attr_t attributes;
	sigset_t all, before;
	bool started;

	if (pthread_attr_init(&attributes) != 0)
		return false;
	pthread_attr_setstacksize(&attributes, STACK_SIZE);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	started = pthread_create(thread, &attributes, function, NULL) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return started;
}

static void wait_for(pthread_t thread, bool *running)
{
	if (*running)
		pthread_join(thread, NULL);
	*running = false;
}

/* -- programs ---------------------------------------------------------------------------- */

static void *load(void *unused)
{
	struct marker *m;
	int r = marker_new(&m);

	(void)unused;
	if (r == 0)
		r = marker_load_early(m);
	if (r < 0)
		marker_close(m);
	else
		loading.marker = m;
	return NULL;
}

void marker_early_start(void)
{
	/* A process that took the place of another one finds its pins. */
	if (loading.running || loading.marker || handover_resumed())
		return;
	libbpf_set_print(NULL);
	loading.running = start(&loading.thread, load);
}

struct marker *marker_early_take(void)
{
	struct marker *m;

	wait_for(loading.thread, &loading.running);
	m = loading.marker;
	loading.marker = NULL;
	return m;
}

/* -- links ------------------------------------------------------------------------------- */

static void *attach(void *unused)
{
	static const struct bpf_insn pass[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = -1}, /* TCX_NEXT */
		{.code = BPF_JMP | BPF_EXIT},
	};
	int program = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "label_pass", "GPL", pass, 2, NULL);

	(void)unused;
	if (program < 0)
		return NULL;
	for (int i = 0; i < attaching.count; i++)
		attaching.link[i].fd = marker_link_create(program, attaching.link[i].ifindex);
	close(program);
	return NULL;
}

void marker_early_attach(const char *directory, const char *interfaces)
{
	struct stat st;
	char name[IF_NAMESIZE];

	if (attaching.count > 0 || handover_resumed() || lstat(directory, &st) == 0 || errno != ENOENT)
		return;
	while (attaching.count < LINKS_MAX && sscanf(interfaces, "%15s", name) == 1) {
		int ifindex = (int)if_nametoindex(name);

		interfaces = strstr(interfaces, name) + strlen(name);
		if (ifindex == 0)
			continue;
		attaching.link[attaching.count].ifindex = ifindex;
		attaching.link[attaching.count++].fd = -1;
	}
	attaching.running = attaching.count > 0 && start(&attaching.thread, attach);
}

int marker_early_link(int ifindex)
{
	wait_for(attaching.thread, &attaching.running);
	for (int i = 0; i < attaching.count; i++) {
		int fd = attaching.link[i].fd;

		if (attaching.link[i].ifindex != ifindex || fd < 0)
			continue;
		attaching.link[i].fd = -1;
		return fd;
	}
	return -1;
}

/* ------------------------------------------------------------------------------------------- */

void marker_early_wait(void)
{
	wait_for(loading.thread, &loading.running);
	wait_for(attaching.thread, &attaching.running);
}

void marker_early_end(void)
{
	marker_early_wait();
	marker_close(marker_early_take());
	for (int i = 0; i < attaching.count; i++) {
		if (attaching.link[i].fd >= 0)
			close(attaching.link[i].fd);
	}
	attaching.count = 0;
}
