/* SPDX-License-Identifier: Apache-2.0 */
/*
 * line_editor.h - a line of input at the terminal: editing, history and completion by libedit.
 *
 * For the command `console` only: one editor, on standard input and output. What stands at the cursor is
 * completed by the daemon at the other end of the console's socket.
 */
#ifndef LINE_EDITOR_H
#define LINE_EDITOR_H

#include <stdbool.h>
#include "console_client.h"
#include "ffi_export.h"

enum line_editor_outcome {
	LINE_EDITOR_LINE = 1,
	LINE_EDITOR_END = 2,	   /* Ctrl-D in an empty line, or the terminal is gone */
	LINE_EDITOR_INTERRUPT = 3, /* Ctrl-C: the line is given up */
};

/*
 * Start editing. history_path: a file that is read now and written at each line that is added, mode 0600, its
 * directories are made, mode 0700; "": none. NULL when libedit cannot (out of memory, no terminal), or is not
 * there (logged).
 */
FFI_EXPORT struct line_editor *line_editor_open(const char *history_path);
FFI_EXPORT void line_editor_close(struct line_editor *e);

/* Who completes; NULL: nobody. Borrowed. */
FFI_EXPORT void line_editor_use(struct line_editor *e, struct console_client *client);

/* Read a line. The text is valid until the next call, without a newline; NULL unless *outcome is
 * LINE_EDITOR_LINE. */
FFI_EXPORT const char *line_editor_read(struct line_editor *e, const char *prompt, int *outcome);

/* Add a line to the history; continues: to its last entry. */
FFI_EXPORT void line_editor_remember(struct line_editor *e, const char *line, bool continues);

/* Columns of the terminal at standard output; 0: it is none. */
FFI_EXPORT int line_editor_columns(void);

/* Is standard input a terminal? */
FFI_EXPORT bool line_editor_interactive(void);

#endif
