/* SPDX-License-Identifier: Apache-2.0 */
/* marker_kernel.c - the kernel's types, as far as the marking programs need them, put into these. */
#include "marker_internal.h"
#include "marker_kernel.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/btf.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* -- BTF: Documentation/bpf/btf.rst of the kernel -------------------------------------------- */

struct types {
	const uint8_t *file;
	size_t size;
	bool mapped; /* else allocated */
	const uint8_t *first, *end;
	const char *strings;
	size_t strings_size;
	uint32_t *at; /* of each type, by id, behind `first` */
	uint32_t count;
};

/* Kernels from 6.16 on let it be mapped. */
static int read_file(struct types *t, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), r = -EIO;
	struct stat st;
	uint8_t *into;
	size_t done = 0;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || st.st_size == 0)
		goto out;
	t->size = (size_t)st.st_size;
	into = mmap(NULL, t->size, PROT_READ, MAP_PRIVATE, fd, 0);
	t->mapped = into != MAP_FAILED;
	if (!t->mapped)
		into = malloc(t->size);
	t->file = into;
	while (into && !t->mapped && done < t->size) {
		ssize_t n = read(fd, into + done, t->size - done);

		if (n <= 0)
			goto out;
		done += (size_t)n;
	}
	r = into ? 0 : -ENOMEM;
out:
	close(fd);
	return r;
}

/* Octets of a type's description; 0: of a kind that is newer than this. */
static size_t type_size(const struct btf_type *type)
{
	size_t parts = BTF_INFO_VLEN(type->info);

	switch (BTF_INFO_KIND(type->info)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return sizeof(*type) + 4;
	case BTF_KIND_ARRAY:
		return sizeof(*type) + sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return sizeof(*type) + parts * sizeof(struct btf_member);
	case BTF_KIND_ENUM:
	case BTF_KIND_FUNC_PROTO:
		return sizeof(*type) + parts * 8;
	case BTF_KIND_DATASEC:
	case BTF_KIND_ENUM64:
		return sizeof(*type) + parts * 12;
	case BTF_KIND_PTR:
	case BTF_KIND_FWD:
	case BTF_KIND_TYPEDEF:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_CONST:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_FUNC:
	case BTF_KIND_FLOAT:
	case BTF_KIND_TYPE_TAG:
		return sizeof(*type);
	}
	return 0;
}

static int open_types(struct types *t, const char *path)
{
	const struct btf_header *h;
	uint32_t room = 0;
	int r = read_file(t, path);

	if (r < 0)
		return r;
	h = (const void *)t->file;
	if (t->size < sizeof(*h) || h->magic != BTF_MAGIC || h->hdr_len > t->size ||
	    (uint64_t)h->hdr_len + h->type_off + h->type_len > t->size ||
	    (uint64_t)h->hdr_len + h->str_off + h->str_len > t->size || h->str_len == 0 || h->type_off % 4 ||
	    h->hdr_len % 4)
		return -EINVAL;
	t->first = t->file + h->hdr_len + h->type_off;
	t->end = t->first + h->type_len;
	t->strings = (const char *)t->file + h->hdr_len + h->str_off;
	t->strings_size = h->str_len;
	t->count = 1; /* 0 is void */
	for (const uint8_t *at = t->first; at + sizeof(struct btf_type) <= t->end;) {
		size_t size = type_size((const void *)at);

		if (size == 0 || size > (size_t)(t->end - at))
			return -EINVAL;
		if (t->count >= room) {
			uint32_t *more;

			room = room ? 2 * room : 1 << 16;
			more = realloc(t->at, room * sizeof(*more));
			if (!more)
				return -ENOMEM;
			t->at = more;
		}
		t->at[t->count++] = (uint32_t)(at - t->first);
		at += size;
	}
	return 0;
}

static void close_types(struct types *t)
{
	free(t->at);
	if (t->mapped)
		munmap((void *)t->file, t->size);
	else
		free((void *)t->file);
}

static const struct btf_type *type_of(const struct types *t, uint32_t id)
{
	return id > 0 && id < t->count ? (const void *)(t->first + t->at[id]) : NULL;
}

static bool is_named(const struct types *t, uint32_t at, const char *name)
{
	size_t length = strlen(name) + 1;

	return at < t->strings_size && length <= t->strings_size - at &&
	       memcmp(t->strings + at, name, length) == 0;
}

/* Offset of a name that is not part of another; 0: it is not there. Each name is there once. */
static uint32_t find_name(const struct types *t, const char *name)
{
	char text[64];
	size_t length = strlen(name) + 2;
	const char *found;

	/* Between the end of the one before and its own. */
	text[0] = '\0';
	memcpy(text + 1, name, length - 1);
	found = memmem(t->strings, t->strings_size, text, length);
	return found ? (uint32_t)(found + 1 - t->strings) : 0;
}

static uint32_t find_type(const struct types *t, uint32_t kind, const char *name)
{
	uint32_t at = find_name(t, name);

	for (uint32_t id = 1; at && id < t->count; id++) {
		const struct btf_type *type = type_of(t, id);

		if (type->name_off == at && BTF_INFO_KIND(type->info) == kind)
			return id;
	}
	return 0;
}

/* Where a struct has a member of that name, itself or in one without a name: in bits, or -1. */
static int64_t find_member(const struct types *t, const struct btf_type *type, const char *name, int depth)
{
	const struct btf_member *member = (const void *)(type + 1);
	uint32_t kind = BTF_INFO_KIND(type->info);

	if ((kind != BTF_KIND_STRUCT && kind != BTF_KIND_UNION) || depth == 0)
		return -1;
	for (uint32_t i = 0; i < BTF_INFO_VLEN(type->info); i++, member++) {
		int64_t at =
			BTF_INFO_KFLAG(type->info) ? BTF_MEMBER_BIT_OFFSET(member->offset) : member->offset;
		const struct btf_type *of = type_of(t, member->type);
		int64_t inside;

		if (is_named(t, member->name_off, name))
			return at;
		if (member->name_off != 0 || !of)
			continue;
		inside = find_member(t, of, name, depth - 1);
		if (inside >= 0)
			return at + inside;
	}
	return -1;
}

/* The member of a struct: bits, or -1. */
static int64_t find_field(const struct types *t, const char *of, const char *name)
{
	const struct btf_type *type = type_of(t, find_type(t, BTF_KIND_STRUCT, of));

	return type ? find_member(t, type, name, 8) : -1;
}

int marker_kernel_read(const char *path, struct marker_kernel *out)
{
	struct types t = {0};
	int64_t socket, cloned, common, cookie;
	int r = open_types(&t, path);

	memset(out, 0, sizeof(*out));
	if (r < 0)
		goto out;
	r = -ENOENT;
	out->cast = (int32_t)find_type(&t, BTF_KIND_FUNC, "bpf_cast_to_kern_ctx");
	if (!out->cast)
		goto out;
	socket = find_field(&t, "sk_buff", "sk");
	cloned = find_field(&t, "sk_buff", "cloned");
	common = find_field(&t, "sock", "__sk_common");
	cookie = find_field(&t, "sock_common", "skc_cookie");
	if (socket < 0 || cloned < 0 || common < 0 || cookie < 0)
		goto out;
	out->offset[MARKER_KERNEL_SOCKET - MARKER_KERNEL_CAST] = (uint16_t)(socket / 8);
	out->offset[MARKER_KERNEL_CLONED - MARKER_KERNEL_CAST] = (uint16_t)(cloned / 8);
	out->offset[MARKER_KERNEL_COOKIE - MARKER_KERNEL_CAST] = (uint16_t)((common + cookie) / 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	out->cloned = (uint8_t)(1 << cloned % 8);
#else
	out->cloned = (uint8_t)(0x80 >> cloned % 8);
#endif
	r = 0;
out:
	close_types(&t);
	return r;
}

/* -- into the programs ----------------------------------------------------------------------- */

static struct marker_kernel kernel;
static int known = -ENOENT; /* 0: `kernel` is */

static _Thread_local struct marker_kernel_load constants;

void marker_kernel_set(const struct marker_kernel_load *load)
{
	constants = *load;
}

void marker_kernel_set_factor(int32_t factor)
{
	constants.factor = factor;
}

static bool is_field(int32_t value)
{
	return value >= MARKER_KERNEL_CAST && value < MARKER_KERNEL_END;
}

static void complete_number(int32_t *number)
{
	switch (*number) {
	case MARKER_KERNEL_UNKNOWN:
		*number = !constants.known;
		break;
	case MARKER_KERNEL_CPUS_ELEMENTS:
		*number = !constants.cpus_flat;
		break;
	case MARKER_KERNEL_FLOWS_ELEMENTS:
		*number = !constants.flows_flat;
		break;
	}
}

static void complete_mask(int32_t *mask)
{
	switch (*mask) {
	case MARKER_KERNEL_CLONED:
		*mask = kernel.cloned;
		break;
	case MARKER_KERNEL_CPU_MASK:
		*mask = (int32_t)(constants.cpus_flat - 1);
		break;
	case MARKER_KERNEL_ENTRY_MASK:
		*mask = (int32_t)(constants.flows_flat - 1);
		break;
	}
}

/* Two instructions that load a number of 64 bits: now an address in a map, if it is such a number. */
static void complete_address(struct bpf_insn insn[2])
{
	const struct bpf_map *map = constants.flows;
	uint32_t flat = constants.flows_flat;
	size_t offset = 0;

	switch (insn[0].imm) {
	case MARKER_KERNEL_CPUS:
		map = constants.cpus;
		flat = constants.cpus_flat;
		break;
	case MARKER_KERNEL_TAGS:
		break;
	case MARKER_KERNEL_ENTRIES:
		offset = marker_flows_entries(flat);
		break;
	case MARKER_KERNEL_RESTS:
		offset = marker_flows_rests(flat);
		break;
	default:
		return;
	}
	if (insn[0].src_reg != 0 || insn[1].imm != 0 || flat == 0)
		return;
	insn[0].src_reg = BPF_PSEUDO_MAP_VALUE;
	insn[0].imm = bpf_map__fd(map);
	insn[1].imm = (int32_t)offset;
}

static void complete(struct bpf_insn *insn)
{
	if (insn->code == (BPF_JMP | BPF_CALL) && insn->src_reg == 0 && insn->imm == MARKER_KERNEL_CAST) {
		insn->src_reg = BPF_PSEUDO_KFUNC_CALL;
		insn->imm = kernel.cast;
	} else if (BPF_CLASS(insn->code) == BPF_LDX && is_field(insn->off)) {
		insn->off = (int16_t)kernel.offset[insn->off - MARKER_KERNEL_CAST];
	} else if (insn->code == (BPF_ALU64 | BPF_MOV | BPF_K)) {
		complete_number(&insn->imm);
	} else if (insn->code == (BPF_ALU64 | BPF_AND | BPF_K)) {
		complete_mask(&insn->imm);
	} else if (insn->code == (BPF_ALU64 | BPF_MUL | BPF_K) && insn->imm == MARKER_KERNEL_FACTOR) {
		insn->imm = constants.factor;
	} else if (insn->code == (BPF_ALU64 | BPF_RSH | BPF_K) && insn->imm == MARKER_KERNEL_ENTRY_SHIFT) {
		insn->imm = 64 - __builtin_ctz(constants.flows_flat | 1U << 31);
	} else if (insn->code == (BPF_LD | BPF_IMM | BPF_DW)) {
		complete_address(insn);
	}
}

/* libbpf is about to load a program. */
static int prepare(struct bpf_program *program, struct bpf_prog_load_opts *opts, long cookie)
{
	size_t count = bpf_program__insn_cnt(program);
	struct bpf_insn *insns;
	int r;

	(void)opts;
	(void)cookie;
	if (known < 0)
		return 0;
	insns = calloc(count, sizeof(*insns));
	if (!insns)
		return -ENOMEM;
	memcpy(insns, bpf_program__insns(program), count * sizeof(*insns));
	for (size_t i = 0; i < count; i++)
		complete(&insns[i]);
	r = bpf_program__set_insns(program, insns, count);
	free(insns);
	return r;
}

static void open_kernel(void)
{
	struct libbpf_prog_handler_opts opts = {.sz = sizeof(opts), .prog_prepare_load_fn = prepare};

	known = marker_kernel_read("/sys/kernel/btf/vmlinux", &kernel);
	if (known == 0 && libbpf_register_prog_handler("tc", BPF_PROG_TYPE_SCHED_CLS, 0, &opts) < 0)
		known = -ENOTSUP;
}

int marker_kernel_use(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, open_kernel);
	return known;
}
