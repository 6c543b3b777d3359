/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_version.h - for what a kernel does not tell otherwise than by its age. */
#ifndef KERNEL_VERSION_H
#define KERNEL_VERSION_H

#include <stdbool.h>

/* Is the running kernel older than that release? False when it does not say. */
bool kernel_version_before(unsigned int major, unsigned int minor);

#endif
