/* SPDX-License-Identifier: Apache-2.0 */
#include "handover.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

/*
 * The environment variable reads "PID FD=NAME;FD=NAME;", a ';' or '%' in a name as %3B or %25. The pid
 * tells our own successor (execve keeps it) from a child that merely inherited the environment.
 */
#define VARIABLE	 "FLOWD_LUA_HANDOVER"
#define TEXT_SIZE	 (HANDOVER_MAX * (3 * HANDOVER_NAME_SIZE + 16))
#define LISTEN_FDS_START 3 /* sd_listen_fds(3) */

extern char **environ;

struct entry {
	int fd; /* -1: unused */
	char name[HANDOVER_NAME_SIZE];
};

static struct entry offered[HANDOVER_MAX];
static struct entry handed[HANDOVER_MAX];
static bool resumed;

static char binary[PATH_MAX];
static char **arguments;

/* What a signal handler reads: complete at any instant. Two texts, so that one stands while the other
 * is written. */
static char texts[2][TEXT_SIZE];
static char **environments[2];
static volatile sig_atomic_t current_environment;

static struct entry *find(struct entry *entries, const char *name)
{
	for (int i = 0; i < HANDOVER_MAX; i++) {
		if (entries[i].fd >= 0 && strcmp(entries[i].name, name) == 0)
			return &entries[i];
	}
	return NULL;
}

static struct entry *find_free(struct entry *entries)
{
	for (int i = 0; i < HANDOVER_MAX; i++) {
		if (entries[i].fd < 0)
			return &entries[i];
	}
	return NULL;
}

static void set_close_on_exec(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFD);

	if (flags >= 0)
		fcntl(fd, F_SETFD, on ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC);
}

static void receive(int fd, const char *name)
{
	struct entry *e = find_free(handed);

	if (fcntl(fd, F_GETFD) < 0)
		return;
	set_close_on_exec(fd, true);
	if (!e || strlen(name) >= sizeof(e->name)) {
		close(fd);
		return;
	}
	e->fd = fd;
	strcpy(e->name, name);
}

static void unescape(char *name)
{
	char *out = name;

	for (const char *in = name; *in; in++) {
		if (in[0] == '%' && in[1] && in[2]) {
			*out++ = in[1] == '3' ? ';' : '%';
			in += 2;
		} else {
			*out++ = *in;
		}
	}
	*out = '\0';
}

static void receive_from_predecessor(void)
{
	const char *value = getenv(VARIABLE);
	char *text, *rest, *item;

	if (!value)
		return;
	text = strdup(value);
	unsetenv(VARIABLE);
	if (!text)
		return;
	item = strtok_r(text, " ", &rest);
	if (item && atol(item) == (long)getpid()) {
		resumed = true;
		while ((item = strtok_r(NULL, ";", &rest)) != NULL) {
			char *name = strchr(item, '=');

			if (!name)
				continue;
			*name++ = '\0';
			unescape(name);
			receive(atoi(item), name);
		}
	}
	free(text);
}

static void receive_from_systemd(void)
{
	const char *pid = getenv("LISTEN_PID");
	const char *count = getenv("LISTEN_FDS");
	const char *value = getenv("LISTEN_FDNAMES");
	char *names, *rest = NULL, *name;

	if (!pid || !count || !value || atol(pid) != (long)getpid())
		return;
	names = strdup(value);
	name = names ? strtok_r(names, ":", &rest) : NULL;
	for (int i = 0; i < atoi(count) && name; i++, name = strtok_r(NULL, ":", &rest))
		receive(LISTEN_FDS_START + i, name);
	free(names);
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
}

/* Write the offers into the text that is not in use, then make it the current one. */
static void publish(void)
{
	int next = 1 - current_environment;
	char *out = texts[next];

	if (!environments[next])
		return;
	out += sprintf(out, VARIABLE "=%ld ", (long)getpid());
	for (int i = 0; i < HANDOVER_MAX; i++) {
		if (offered[i].fd < 0)
			continue;
		out += sprintf(out, "%d=", offered[i].fd);
		for (const char *p = offered[i].name; *p; p++) {
			if (*p == ';' || *p == '%')
				out += sprintf(out, "%%%02X", (unsigned int)*p);
			else
				*out++ = *p;
		}
		*out++ = ';';
	}
	*out = '\0';
	current_environment = next;
}

void handover_init(char **argv)
{
	size_t count = 0;
	ssize_t n;

	for (int i = 0; i < HANDOVER_MAX; i++)
		offered[i].fd = handed[i].fd = -1;
	receive_from_predecessor();
	receive_from_systemd();

	arguments = argv;
	n = readlink("/proc/self/exe", binary, sizeof(binary) - 1);
	if (n < 0)
		n = 0;
	binary[n] = '\0';

	while (environ[count])
		count++;
	for (int i = 0; i < 2; i++) {
		environments[i] = calloc(count + 2, sizeof(char *));
		if (!environments[i])
			return;
		memcpy(environments[i], environ, count * sizeof(char *));
		environments[i][count] = texts[i];
	}
	publish();
}

const char *handover_binary(void)
{
	return binary;
}

bool handover_resumed(void)
{
	return resumed;
}

int handover_take(const char *name)
{
	struct entry *e = find(handed, name);
	int fd;

	if (!e)
		return -1;
	fd = e->fd;
	e->fd = -1;
	return fd;
}

int handover_close_rest(void)
{
	int n = 0;

	for (int i = 0; i < HANDOVER_MAX; i++) {
		if (handed[i].fd < 0)
			continue;
		close(handed[i].fd);
		handed[i].fd = -1;
		n++;
	}
	return n;
}

int handover_offer(const char *name, int fd)
{
	struct entry *e;

	if (fd < 0 || !*name || strlen(name) >= sizeof(e->name))
		return -EINVAL;
	for (const char *p = name; *p; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return -EINVAL;
	}
	e = find(offered, name);
	if (!e)
		e = find_free(offered);
	if (!e)
		return -ENOSPC;
	strcpy(e->name, name);
	e->fd = fd;
	publish();
	return 0;
}

void handover_withdraw(const char *name)
{
	struct entry *e = find(offered, name);

	if (!e)
		return;
	e->fd = -1;
	publish();
}

int handover_exec(void)
{
	static const struct itimerval off;
	sigset_t none;

	if (!binary[0] || !environments[current_environment])
		return -ENOEXEC;
	/* Everything closes but what is offered. Kernels before 5.11 know no such flag: there, descriptors
	 * are close-on-exec because they were opened so. */
	syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC);
	for (int i = 0; i < HANDOVER_MAX; i++) {
		if (offered[i].fd >= 0)
			set_close_on_exec(offered[i].fd, false);
	}
	setitimer(ITIMER_REAL, &off, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(binary, arguments, environments[current_environment]);
	return -errno;
}
