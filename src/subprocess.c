/* SPDX-License-Identifier: Apache-2.0 */
#include "subprocess.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "privileges.h"

extern char **environ;

static int spawn(const char *const *argv, int input, int output, pid_t *pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, defaults, all, before;
	bool ambient;
	int err;

	sigemptyset(&none);
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGPIPE);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &defaults);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_init(&actions);
	if (input >= 0)
		posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
	else
		posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
	/* Programs of others need none of our capabilities. The watchdog, which would start our own next
	 * image without them, waits for that moment. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	ambient = privileges_ambient(false);
	err = posix_spawn(pid, argv[0], &actions, &attributes, (char *const *)argv, environ);
	if (ambient)
		privileges_ambient(true);
	sigprocmask(SIG_SETMASK, &before, NULL);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return -err;
}

int subprocess_start(const char *const *argv, int input, int *output)
{
	int fds[2];
	pid_t pid;
	int err;

	if (pipe2(fds, O_CLOEXEC) != 0)
		return -errno;
	/* Only our end: the child may not expect a non-blocking output. */
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	if (input >= 0)
		lseek(input, 0, SEEK_SET);
	err = spawn(argv, input, fds[1], &pid);
	close(fds[1]);
	if (err) {
		close(fds[0]);
		return err;
	}
	*output = fds[0];
	return pid;
}

int subprocess_status(int pid)
{
	int status;
	pid_t done = waitpid(pid, &status, WNOHANG);

	if (done < 0)
		return -errno;
	if (done == 0)
		return -EAGAIN;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void subprocess_kill(int pid)
{
	kill(pid, SIGKILL);
}
