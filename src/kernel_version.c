/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_version.h"

#include <stdio.h>
#include <sys/utsname.h>

bool kernel_version_before(unsigned int major, unsigned int minor)
{
	unsigned int here_major, here_minor;
	struct utsname system;

	if (uname(&system) != 0 || sscanf(system.release, "%u.%u", &here_major, &here_minor) != 2)
		return false;
	return here_major < major || (here_major == major && here_minor < minor);
}
