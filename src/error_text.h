/* SPDX-License-Identifier: Apache-2.0 */
/* error_text.h - what an errno means, for Lua. */
#ifndef ERROR_TEXT_H
#define ERROR_TEXT_H

#include "ffi_export.h"

/* `error` may be negative, as functions here return it. Valid until the next call. */
FFI_EXPORT const char *error_text(int error);

#endif
