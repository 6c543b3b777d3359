/* SPDX-License-Identifier: Apache-2.0 */
/* descriptor.h - system calls on descriptors, for Lua. */
#ifndef DESCRIPTOR_H
#define DESCRIPTOR_H

#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

/* close(2). */
FFI_EXPORT void descriptor_close(int fd);

/* read(2). Returns the octets, 0 at the end, -errno. Interrupted calls are repeated. */
FFI_EXPORT int64_t descriptor_read(int fd, void *buffer, size_t size);

#endif
