/* SPDX-License-Identifier: Apache-2.0 */
/* programs_none.c - built with EBPF=0: there is no program. */
#include "programs.h"

#include <errno.h>

int programs_try(uint32_t number, struct program_trial *out)
{
	(void)number;
	(void)out;
	return -ENOENT;
}
