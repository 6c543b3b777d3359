/* SPDX-License-Identifier: Apache-2.0 */
#include "library.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>

int library_load(const char *file, const char *const *names, size_t count, void **pointers, char *error,
		 size_t error_size)
{
	void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);

	for (size_t i = 0; library && i < count; i++) {
		pointers[i] = dlsym(library, names[i]);
		if (!pointers[i])
			library = NULL;
	}
	if (library)
		return 0;
	snprintf(error, error_size, "cannot load a library: %s", dlerror());
	return -ENOENT;
}
