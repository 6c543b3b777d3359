/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"

enum {
	LINE_SIZE = 4096,
	LINES_MAX = 200, /* of one message */
};

static struct {
	int level;
	bool with_time;
	bool journal;
} logger = {.level = LOG_LEVEL_INFO};

static const char *const level_names[] = {"trace", "debug", "info", "warn", "error"};
/* sd-daemon(3): syslog severities. */
static const int level_priorities[] = {7, 7, 6, 4, 3};

/* systemd sets JOURNAL_STREAM=device:inode; it holds only while stderr is that very file. */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	if (!stream || sscanf(stream, "%llu:%llu", &device, &inode) != 2)
		return false;
	return fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

void log_setup(int level, bool with_time)
{
	logger.level = level;
	logger.with_time = with_time;
	logger.journal = stderr_is_journal();
}

int log_get_level(void)
{
	return logger.level;
}

bool log_enabled(int level)
{
	return level >= logger.level;
}

static size_t put_prefix(char *line, size_t size, int level)
{
	int n = 0;

	if (logger.journal)
		n = snprintf(line, size, "<%d>", level_priorities[level]);
	if (logger.with_time) {
		uint64_t now = clock_realtime_us();
		time_t seconds = (time_t)(now / 1000000);
		struct tm tm;
		char date[32];

		gmtime_r(&seconds, &tm);
		strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
		n += snprintf(line + n, size - (size_t)n, "%s.%06uZ ", date, (unsigned int)(now % 1000000));
	}
	if (!logger.journal)
		n += snprintf(line + n, size - (size_t)n, "%-5s ", level_names[level]);
	return (size_t)n;
}

static void put_line(int level, const char *text, size_t length)
{
	static const char hex[] = "0123456789abcdef";
	char line[LINE_SIZE];
	size_t n = put_prefix(line, sizeof(line), level);

	for (size_t i = 0; i < length && n < sizeof(line) - 5; i++) {
		unsigned char ch = (unsigned char)text[i];

		if (ch >= 0x20 && ch != 0x7f) {
			line[n++] = (char)ch;
			continue;
		}
		line[n++] = '\\';
		if (ch == '\n') {
			line[n++] = 'n';
		} else {
			line[n++] = 'x';
			line[n++] = hex[ch >> 4];
			line[n++] = hex[ch & 15];
		}
	}
	line[n++] = '\n';
	/* One write a line: lines of several threads or processes do not mix. Nothing
	 * can be done when standard error itself fails. */
	while (write(STDERR_FILENO, line, n) < 0 && errno == EINTR)
		;
}

void log_text(int level, const char *text)
{
	if (log_enabled(level))
		put_line(level, text, strlen(text));
}

void log_lines(int level, const char *text)
{
	unsigned int lines = 0;
	char rest[64];

	if (!log_enabled(level))
		return;
	for (; *text; lines++) {
		size_t length = strcspn(text, "\n");

		if (lines < LINES_MAX)
			put_line(level, text, length);
		text += length + (text[length] == '\n');
	}
	if (lines > LINES_MAX) {
		snprintf(rest, sizeof(rest), "(%u more lines)", lines - LINES_MAX);
		log_text(level, rest);
	}
}

static void log_va(int level, uint32_t suppressed, const char *format, va_list args)
{
	char text[LINE_SIZE];
	int n = vsnprintf(text, sizeof(text), format, args);

	if (suppressed && n >= 0 && (size_t)n < sizeof(text))
		snprintf(text + n, sizeof(text) - (size_t)n, " (and %u more of this kind)", suppressed);
	log_text(level, text);
}

void log_write(int level, const char *format, ...)
{
	va_list args;

	if (!log_enabled(level))
		return;
	va_start(args, format);
	log_va(level, 0, format, args);
	va_end(args);
}

bool log_limit_pass(struct log_limit *limit, uint32_t *suppressed)
{
	uint64_t now = clock_monotonic_ns();
	uint64_t interval = limit->interval_ns ? limit->interval_ns : 10000000000ULL;
	uint32_t burst = limit->burst ? limit->burst : 10;

	if (limit->window_start_ns == 0 || now - limit->window_start_ns >= interval) {
		limit->window_start_ns = now;
		limit->passed = 0;
	}
	if (limit->passed >= burst) {
		limit->suppressed++;
		return false;
	}
	limit->passed++;
	*suppressed = limit->suppressed;
	limit->suppressed = 0;
	return true;
}

void log_limited(struct log_limit *limit, int level, const char *format, ...)
{
	uint32_t suppressed;
	va_list args;

	if (!log_enabled(level) || !log_limit_pass(limit, &suppressed))
		return;
	va_start(args, format);
	log_va(level, suppressed, format, args);
	va_end(args);
}
