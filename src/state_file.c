/* SPDX-License-Identifier: Apache-2.0 */
#include "state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"

_Static_assert(sizeof(struct state_header) <= STATE_HEADER_SIZE, "the header is one page");
_Static_assert(sizeof(struct state_name) == STATE_NAME_SIZE, "state_name");
_Static_assert(sizeof(struct state_input) == 256, "state_input");
_Static_assert(offsetof(struct state_input, length) % 8 == 0 &&
		       offsetof(struct state_input, consumed) == offsetof(struct state_input, length) + 4,
	       "length and consumed are stored as one word");
_Static_assert(sizeof(struct counter) == 128, "counter");
_Static_assert(sizeof(struct flow_slot) * STATE_CHUNK_SLOTS == STATE_CHUNK_SIZE, "flow_slot");
_Static_assert(STATE_INPUTS_OFFSET + STATE_INPUTS_MAX * 256 <= STATE_COUNTERS_OFFSET, "inputs");
_Static_assert(STATE_COUNTERS_OFFSET % 65536 == 0 && STATE_FIXED_SIZE % 65536 == 0 &&
		       STATE_SLOTS_OFFSET % 65536 == 0 && STATE_CHUNK_SIZE % 65536 == 0,
	       "what is mapped or reserved on its own starts at a page");

static bool lock_is_held(int fd)
{
	struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};

	return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

bool state_file_locked(int fd)
{
	return lock_is_held(fd);
}

/* The pid in the header of a file that another process has locked. That process may be
 * just starting: a pid of nobody is its predecessor's. 0 when it does not appear. */
static uint32_t find_owner(int fd)
{
	struct state_header header;

	for (int tries = 0; tries < 200; tries++) {
		if (pread(fd, &header, sizeof(header), 0) == (ssize_t)sizeof(header) && header.pid != 0 &&
		    header.pid <= INT32_MAX && (kill((pid_t)header.pid, 0) == 0 || errno == EPERM))
			return header.pid;
		if (!lock_is_held(fd))
			break;
		usleep(1000);
	}
	return 0;
}

/* NULL, or why this file must not be used. */
static const char *refuse_file(const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return "not a regular file";
	if (st->st_uid != geteuid())
		return "belongs to another user";
	if (st->st_nlink > 1)
		return "has other hard links";
	return NULL;
}

/* 1: locked. 0: the file was removed or replaced meanwhile. -1: refused. */
static int lock_descriptor(int fd, const char *path, char *error, size_t error_size)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	const char *refusal;
	struct stat st, now;
	uint32_t pid;

	if (fstat(fd, &st) != 0) {
		snprintf(error, error_size, "state file %s: %s", path, strerror(errno));
		return -1;
	}
	refusal = refuse_file(&st);
	if (refusal) {
		snprintf(error, error_size, "state file %s: %s: remove it or choose another runtime_dir",
			 path, refusal);
		return -1;
	}
	if (fcntl(fd, F_OFD_SETLK, &lock) != 0) {
		if (errno != EAGAIN && errno != EACCES) {
			snprintf(error, error_size, "state file %s: cannot lock it: %s", path,
				 strerror(errno));
			return -1;
		}
		pid = find_owner(fd);
		if (pid)
			snprintf(error, error_size, "another flowd-lua is running with pid %u (it owns %s)",
				 pid, path);
		else
			snprintf(error, error_size, "another flowd-lua is running (it owns %s)", path);
		return -1;
	}
	/* Its last owner may have removed the file between our open and our lock. */
	if (stat(path, &now) != 0 || now.st_dev != st.st_dev || now.st_ino != st.st_ino)
		return 0;
	if ((st.st_mode & 07777) != 0600 && fchmod(fd, 0600) != 0) {
		snprintf(error, error_size, "state file %s: cannot set mode 0600: %s", path, strerror(errno));
		return -1;
	}
	return 1;
}

int state_file_lock(const char *path, char *error, size_t error_size)
{
	for (int tries = 0; tries < 100; tries++) {
		/* O_NONBLOCK: a FIFO at this path must not hold the start up. */
		int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
		int result;

		if (fd < 0) {
			snprintf(error, error_size, "state file %s: %s", path,
				 errno == ELOOP ? "is a symbolic link: remove it" : strerror(errno));
			return -1;
		}
		result = lock_descriptor(fd, path, error, error_size);
		if (result > 0)
			return fd;
		close(fd);
		if (result < 0)
			return -1;
	}
	snprintf(error, error_size, "state file %s: it is replaced again and again by another process", path);
	return -1;
}

int state_file_reserve(int fd, int64_t offset, int64_t length)
{
	int error;

	/* tmpfs gives up when a signal is pending. */
	do {
		error = posix_fallocate(fd, offset, length);
	} while (error == EINTR);
	return -error;
}

void state_file_boot_id(char *id, size_t size)
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = 0;

	memset(id, 0, size);
	if (fd < 0)
		return;
	n = read(fd, id, size - 1);
	close(fd);
	id[n > 0 ? strcspn(id, "\n") : 0] = '\0';
}

/* The file ends behind its last reserved chunk; or one further, when its owner was killed
 * between the allocation and the note of it. */
static bool size_fits(uint32_t slots_reserved, int64_t size)
{
	int64_t end = STATE_SLOTS_OFFSET + (int64_t)slots_reserved * (int64_t)sizeof(struct flow_slot);

	if (slots_reserved == 0 && size <= STATE_SLOTS_OFFSET)
		return true;
	return size == end || size == end + STATE_CHUNK_SIZE;
}

const char *state_file_refusal(const struct state_header *h, int64_t size)
{
	static const struct state_header empty;
	char boot_id[sizeof(h->boot_id)];

	if (size < STATE_FIXED_SIZE)
		return "it is cut short";
	if (memcmp(h->magic, empty.magic, sizeof(h->magic)) == 0)
		return "it was never finished";
	if (memcmp(h->magic, STATE_MAGIC, sizeof(h->magic)) != 0)
		return "it is no state file";
	if (h->version != STATE_VERSION || h->slot_size != sizeof(struct flow_slot))
		return "it has the layout of another version";
	state_file_boot_id(boot_id, sizeof(boot_id));
	if (memcmp(h->boot_id, boot_id, sizeof(boot_id)) != 0)
		return "it is from an earlier boot";
	if (h->flows_max < 1 || h->flows_max > STATE_FLOWS_MAX)
		return "its flows_max is out of range";
	if (h->slots_reserved % STATE_CHUNK_SLOTS != 0 ||
	    h->slots_reserved > STATE_FLOWS_MAX + STATE_SLOTS_EXTRA || !size_fits(h->slots_reserved, size))
		return "its slots_reserved does not fit its size";
	if (h->slots_used > h->slots_reserved)
		return "its slots_used is out of range";
	if (h->undo_slot > h->slots_used)
		return "its undo_slot is out of range";
	if (h->inputs_used > STATE_INPUTS_MAX)
		return "its inputs_used is out of range";
	return NULL;
}

/* Printable, NUL-terminated, NUL-filled. */
static bool text_valid(const char *text, size_t size)
{
	size_t len = strnlen(text, size);

	if (len == size)
		return false;
	for (size_t i = 0; i < size; i++) {
		if (i < len ? (unsigned char)text[i] < 0x20 || text[i] == 0x7f : text[i] != '\0')
			return false;
	}
	return true;
}

static bool input_valid(const struct state_input *in, uint32_t number)
{
	return in->number == number && text_valid(in->name, sizeof(in->name)) && in->capacity >= 1 &&
	       in->capacity <= STATE_INPUT_CAPACITY_MAX && in->length <= in->capacity &&
	       in->consumed <= in->length && in->scanned <= in->length;
}

void state_file_repair(struct state *s)
{
	uint32_t names = 0, inputs = 0;

	for (uint32_t i = 0; i < STATE_NAMES_MAX; i++) {
		struct state_name *name = &state_names(s)[i];

		if (text_valid(name->text, sizeof(name->text)) && (i > 0 || name->text[0] == '\0'))
			continue;
		memset(name, 0, sizeof(*name));
		names++;
	}
	for (uint32_t i = 0; i < STATE_INPUTS_MAX; i++) {
		struct state_input *in = &state_inputs(s)[i];

		if (in->name[0] == '\0' || input_valid(in, i))
			continue;
		memset(in, 0, sizeof(*in));
		inputs++;
	}
	for (uint32_t bit = 0; bit < 32; bit++) {
		if (state_header(s)->backend[bit] >= STATE_NAMES_MAX)
			state_header(s)->backend[bit] = 0;
	}
	state_header(s)->running.name[sizeof(state_header(s)->running.name) - 1] = '\0';
	if (!names && !inputs)
		return;
	counter_get("flowd_state_damaged_total{part=\"name\"}")->value += names;
	counter_get("flowd_state_damaged_total{part=\"input\"}")->value += inputs;
	log_warn("state file %s: damaged: %u names and %u input buffers are given up", s->path, names,
		 inputs);
}
