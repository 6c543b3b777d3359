/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pages.h - memory of the process is resident only where it is in use.
 */
#ifndef PAGES_H
#define PAGES_H

#include <stddef.h>
#include <stdint.h>

#include "ffi_export.h"

/* `size` octets of zeros, on a page's boundary; a page takes memory when it is first written. NULL when out
 * of memory. To be given to pages_free() with the same size. */
FFI_EXPORT void *pages_new(size_t size);
FFI_EXPORT void pages_free(void *pages, size_t size);

/*
 * What only the start needed goes: free memory of malloc's, and the pages of the embedded Lua modules. What
 * was loaded of those is a copy; a page that is wanted again comes from the file.
 */
FFI_EXPORT void pages_give_back(void);

#endif
