/* SPDX-License-Identifier: Apache-2.0 */
/*
 * library.h - shared libraries that few installations use are loaded when they are first needed: the daemon
 * starts the sooner, and has the more memory to itself. In a static binary they are there from the start.
 *
 * A list of functions is written once, as LIST(X) with an X(name) for each; a struct of pointers is made of
 * it.
 */
#ifndef LIBRARY_H
#define LIBRARY_H

#include <stddef.h>

#define LIBRARY_POINTER(name) __typeof__(name) *name;
#define LIBRARY_NAME(name)    #name,
#define LIBRARY_HERE(name)    .name = name,

/*
 * Load `file`, which stays, and find each of `names` in it or in the libraries that it uses: pointers[] in
 * the same order. 0, or -ENOENT and in `error` what is missing.
 */
int library_load(const char *file, const char *const *names, size_t count, void **pointers, char *error,
		 size_t error_size);

#endif
