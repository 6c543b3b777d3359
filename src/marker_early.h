/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marker_early.h - the marking programs are loaded while the daemon reads its configuration: the kernel
 * takes about as long to verify them as all the rest of the start, and another processor can do that. With
 * what the configuration and the pins say, most starts then find what they need; else it is thrown away.
 *
 * The threads run nothing but that, take no signal, and have ended before the daemon gives up privileges.
 */
#ifndef MARKER_EARLY_H
#define MARKER_EARLY_H

#include "ffi_export.h"

struct marker;

/* Begin, once. What fails is tried again, and told, when a marker is opened. */
FFI_EXPORT void marker_early_start(void);

/*
 * Put a program that does nothing at the head of the egress of these interfaces (names, separated by blanks),
 * by TCX, in another thread: the kernel waits for two to four ticks before it is in force, and the marking
 * program takes its place without any wait. Unless `directory` is there: then an earlier process left links.
 */
FFI_EXPORT void marker_early_attach(const char *directory, const char *interfaces);

/* The link of an interface, now the caller's; -1: there is none. */
int marker_early_link(int ifindex);

/* When this returns no thread runs. */
FFI_EXPORT void marker_early_wait(void);

/* A marker whose programs are loaded, with a table of the size that most begin with; now the caller's. NULL:
 * there is none (any more). */
struct marker *marker_early_take(void);

/* No marker will be opened soon: everything that was not taken goes. */
FFI_EXPORT void marker_early_end(void);

#endif
