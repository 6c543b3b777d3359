/* SPDX-License-Identifier: Apache-2.0 */
#include "line_editor.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "library.h"
#include "log.h"

enum {
	HISTORY_LINES = 2000,
	COMPLETION_SIZE = 65536,
	COMPLETION_MS = 2000,
	SHOWN_MAX = 200,
};

struct line_editor {
	EditLine *edit;
	History *history;
	struct console_client *client;
	bool interrupted;
	char prompt[64];
	char path[4096];
	char line[CONSOLE_REQUEST_MAX];
	char answer[COMPLETION_SIZE];
};

#define EDIT_FUNCTIONS(X) \
	X(el_end)         \
	X(el_gets)        \
	X(el_init)        \
	X(el_insertstr)   \
	X(el_line)        \
	X(el_set)         \
	X(el_source)      \
	X(history)        \
	X(history_end)    \
	X(history_init)

/* library.h */
static struct {
	EDIT_FUNCTIONS(LIBRARY_POINTER)
} libedit
#ifdef FLOWD_STATIC
	= {EDIT_FUNCTIONS(LIBRARY_HERE)};
#else
	;
#endif

/* There is one terminal. */
static struct line_editor *current;

static char *show_prompt(EditLine *edit)
{
	(void)edit;
	return current->prompt;
}

static unsigned char on_interrupt(EditLine *edit, int key)
{
	(void)edit;
	(void)key;
	current->interrupted = true;
	puts("^C");
	return CC_NEWLINE;
}

/* Ask the daemon what may stand at the cursor. False: nothing. */
static bool ask(struct line_editor *e, const LineInfo *line)
{
	size_t length = (size_t)(line->cursor - line->buffer), have = 0;
	struct console_frame f;
	int status;

	if (!e->client || length + 1 > sizeof(e->line))
		return false;
	e->line[0] = '\n';
	memcpy(e->line + 1, line->buffer, length);
	if (console_client_send(e->client, CONSOLE_COMPLETE, e->line, length + 1) != 0)
		return false;
	while ((status = console_client_receive(e->client, COMPLETION_MS, &f)) == 1 &&
	       f.type != CONSOLE_END) {
		if (f.length < sizeof(e->answer) - have) {
			memcpy(e->answer + have, f.body, f.length);
			have += f.length;
		}
	}
	if (status == 0)
		console_client_forgo(e->client);
	e->answer[have] = '\0';
	return have > 0;
}

/* The candidates side by side below the line. */
static void show_candidates(EditLine *edit, char *const *list, int count, size_t longest)
{
	int columns = line_editor_columns(), across;

	if (columns < 20)
		columns = 80;
	across = columns / (int)(longest + 2);
	if (across < 1)
		across = 1;
	putchar('\n');
	for (int i = 0; i < count; i++)
		printf("%-*s%s", (int)longest + 2, list[i],
		       (i + 1) % across == 0 || i + 1 == count ? "\n" : "");
	fflush(stdout);
	libedit.el_set(edit, EL_REFRESH);
}

static unsigned char on_complete(EditLine *edit, int key)
{
	struct line_editor *e = current;
	char *list[SHOWN_MAX], *rest = NULL, *word, *item;
	size_t common = 0, longest = 0, length;
	int count = 0;

	(void)key;
	if (!ask(e, libedit.el_line(edit)))
		return CC_ERROR;
	word = e->answer;
	rest = strchr(word, '\n');
	if (!rest)
		return CC_ERROR;
	*rest++ = '\0';
	for (item = strtok_r(rest, "\n", &rest); item && count < SHOWN_MAX;
	     item = strtok_r(NULL, "\n", &rest)) {
		size_t same = 0;

		list[count] = item;
		if (strlen(item) > longest)
			longest = strlen(item);
		while (count > 0 && same < common && item[same] == list[0][same])
			same++;
		common = count == 0 ? strlen(item) : same;
		count++;
	}
	length = strlen(word);
	if (count == 0 || common < length)
		return CC_ERROR;
	if (common > length) {
		char saved = list[0][common];

		list[0][common] = '\0';
		libedit.el_insertstr(edit, list[0] + length);
		list[0][common] = saved;
		return CC_REFRESH;
	}
	if (count > 1) {
		show_candidates(edit, list, count, longest);
		return CC_REDISPLAY;
	}
	return CC_NORM;
}

static void set_locale(void)
{
	const char *name = setlocale(LC_CTYPE, "");

	/* Names of experiments and what is typed may be UTF-8 where nobody says so. */
	if (!name || strcmp(name, "C") == 0 || strcmp(name, "POSIX") == 0)
		setlocale(LC_CTYPE, "C.UTF-8");
}

/* What cannot be made costs the history only. */
static void make_parents(char *path)
{
	for (char *at = path + 1; *at; at++) {
		if (*at != '/')
			continue;
		*at = '\0';
		mkdir(path, 0700);
		*at = '/';
	}
}

static bool load_library(void)
{
#ifndef FLOWD_STATIC
	static const char *const names[] = {EDIT_FUNCTIONS(LIBRARY_NAME)};
	char error[256];

	if (library_load(FLOWD_EDIT_LIBRARY, names, sizeof(names) / sizeof(*names), (void **)&libedit, error,
			 sizeof(error)) < 0) {
		log_error("console: %s", error);
		return false;
	}
#endif
	return true;
}

struct line_editor *line_editor_open(const char *history_path)
{
	struct line_editor *e = load_library() ? calloc(1, sizeof(*e)) : NULL;
	HistEvent event;

	if (!e)
		return NULL;
	set_locale();
	e->edit = libedit.el_init("flowd-lua", stdin, stdout, stderr);
	e->history = libedit.history_init();
	if (!e->edit || !e->history) {
		line_editor_close(e);
		return NULL;
	}
	libedit.history(e->history, &event, H_SETSIZE, HISTORY_LINES);
	libedit.history(e->history, &event, H_SETUNIQUE, 1);
	if (strlen(history_path) < sizeof(e->path))
		strcpy(e->path, history_path);
	if (e->path[0]) {
		make_parents(e->path);
		libedit.history(e->history, &event, H_LOAD, e->path);
	}
	current = e;
	libedit.el_set(e->edit, EL_PROMPT, show_prompt);
	libedit.el_set(e->edit, EL_EDITOR, "emacs");
	libedit.el_set(e->edit, EL_SIGNAL, 1);
	libedit.el_set(e->edit, EL_HIST, libedit.history, e->history);
	/* While a line is edited Ctrl-C is a key like any other: it gives the line up. */
	libedit.el_set(e->edit, EL_SETTY, "-d", "-isig", NULL);
	libedit.el_set(e->edit, EL_ADDFN, "flowd-interrupt", "give the line up", on_interrupt);
	libedit.el_set(e->edit, EL_ADDFN, "flowd-complete", "complete what is at the cursor", on_complete);
	libedit.el_set(e->edit, EL_BIND, "^C", "flowd-interrupt", NULL);
	libedit.el_set(e->edit, EL_BIND, "^I", "flowd-complete", NULL);
	libedit.el_set(e->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
	libedit.el_source(e->edit, NULL);
	return e;
}

void line_editor_close(struct line_editor *e)
{
	if (!e)
		return;
	if (e->edit)
		libedit.el_end(e->edit);
	if (e->history)
		libedit.history_end(e->history);
	free(e);
}

void line_editor_use(struct line_editor *e, struct console_client *client)
{
	e->client = client;
}

const char *line_editor_read(struct line_editor *e, const char *prompt, int *outcome)
{
	const char *text;
	int length = 0;

	snprintf(e->prompt, sizeof(e->prompt), "%s", prompt);
	e->interrupted = false;
	/* Before the prompt is there, not behind it: what is typed in between would be the terminal's to
	 * handle. */
	libedit.el_set(e->edit, EL_PREP_TERM, 1);
	text = libedit.el_gets(e->edit, &length);
	*outcome = LINE_EDITOR_END;
	if (e->interrupted) {
		*outcome = LINE_EDITOR_INTERRUPT;
		return NULL;
	}
	if (!text || length <= 0)
		return NULL;
	if ((size_t)length >= sizeof(e->line))
		length = sizeof(e->line) - 1;
	memcpy(e->line, text, (size_t)length);
	while (length > 0 && (e->line[length - 1] == '\n' || e->line[length - 1] == '\r'))
		length--;
	e->line[length] = '\0';
	*outcome = LINE_EDITOR_LINE;
	return e->line;
}

/* H_ADD adds to the entry that was looked at last. */
static void extend_last(struct line_editor *e, const char *line)
{
	HistEvent event;

	libedit.history(e->history, &event, H_FIRST);
	libedit.history(e->history, &event, H_ADD, "\n");
	libedit.history(e->history, &event, H_ADD, line);
}

void line_editor_remember(struct line_editor *e, const char *line, bool continues)
{
	HistEvent event;
	mode_t mask;

	if (continues)
		extend_last(e, line);
	else
		libedit.history(e->history, &event, H_ENTER, line);
	if (!e->path[0])
		return;
	mask = umask(0077);
	libedit.history(e->history, &event, H_SAVE, e->path);
	umask(mask);
}

int line_editor_columns(void)
{
	struct winsize size;

	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

bool line_editor_interactive(void)
{
	return isatty(STDIN_FILENO) == 1;
}
