/* SPDX-License-Identifier: Apache-2.0 */
/*
 * programs.h - does this kernel take the eBPF programs that the binary holds? For the kernel
 * matrix and for diagnosis; marking does not come through here.
 *
 * The build makes the list from bpf/: a new program is in it by itself. A binary built with
 * EBPF=0 holds none.
 */
#ifndef PROGRAMS_H
#define PROGRAMS_H

#include <stdint.h>

#include "ffi_export.h"

/* What the kernel said to one program. */
struct program_trial {
	char object[64];       /* file in bpf/ without its ending */
	char program[64];      /* function in it */
	int32_t error;	       /* 0: taken; else -errno */
	uint32_t instructions; /* after the verifier's changes */
	uint32_t verified;     /* instructions that the verifier went through; 0: unknown (before 5.16) */
	uint32_t machine_code; /* octets; 0: interpreted */
};

/*
 * Load program `number` (from 0) alone, with its maps, and let go of it. 0 when there is such
 * a program, whatever the kernel said: see out->error (libbpf prints the verifier's words on
 * standard error). -ENOENT behind the last one.
 */
FFI_EXPORT int programs_try(uint32_t number, struct program_trial *out);

#endif
