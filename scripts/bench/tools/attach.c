/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach - what a program takes at the least until the packets of an interface pass it: from exec on, a BPF
 * program of two instructions is loaded and attached to lo by TCX, nothing else. Prints CLOCK_MONOTONIC in
 * nanoseconds when that is done. Nearly all of it is the kernel waiting for a grace period of RCU, two to
 * four ticks of its clock.
 */
#define _GNU_SOURCE
#include <err.h>
#include <inttypes.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LOOPBACK 1
#define TCX_EGRESS 47 /* newer than the headers */

static int bpf(int command, union bpf_attr *attr)
{
	int fd = (int)syscall(SYS_bpf, command, attr, sizeof(*attr));

	if (fd < 0)
		err(1, "bpf(%d)", command);
	return fd;
}

int main(void)
{
	/* return TCX_NEXT */
	struct bpf_insn program[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = -1}, {.code = BPF_JMP | BPF_EXIT}};
	union bpf_attr attr;
	struct timespec now;
	int fd;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_SCHED_CLS;
	attr.insns = (uintptr_t)program;
	attr.insn_cnt = 2;
	attr.license = (uintptr_t) "Apache-2.0";
	fd = bpf(BPF_PROG_LOAD, &attr);
	memset(&attr, 0, sizeof(attr));
	attr.link_create.prog_fd = (uint32_t)fd;
	attr.link_create.target_fd = LOOPBACK;
	attr.link_create.attach_type = TCX_EGRESS;
	bpf(BPF_LINK_CREATE, &attr);
	clock_gettime(CLOCK_MONOTONIC, &now);
	printf("%" PRIu64 "\n", (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
	return 0;
}
