/* SPDX-License-Identifier: Apache-2.0 */
/*
 * account.h - users and groups by name or number.
 *
 * Asks /etc/passwd and /etc/group first, which works in a static binary too, then the system's
 * other sources (LDAP, SSSD), which may block: for start-up only.
 */
#ifndef ACCOUNT_H
#define ACCOUNT_H

#include <stdint.h>
#include "ffi_export.h"

/* "storm" or "1004". Returns 0, or -ENOENT when there is no such user or group. */
FFI_EXPORT int account_user(const char *name, uint32_t *uid);
FFI_EXPORT int account_group(const char *name, uint32_t *gid);

/*
 * The groups of a user, its own one among them: at most `max`, how many, or -ENOENT when the user has no
 * account. *gid (may be NULL) gets its own group.
 */
FFI_EXPORT int account_groups(uint32_t uid, uint32_t *gid, uint32_t *out, int max);

#endif
