// SPDX-License-Identifier: Apache-2.0
#include "pages.h"

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include "embedded.h"

void *pages_new(size_t size)
{
	void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return pages == MAP_FAILED ? NULL : pages;
}

void pages_free(void *pages, size_t size)
{
	munmap(pages, size);
}

void pages_give_back(void)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t start = ((uintptr_t)embedded_octets + page - 1) & ~(page - 1);
	uintptr_t end = ((uintptr_t)embedded_octets + embedded_size) & ~(page - 1);

	if (end > start)
		madvise((void *)start, end - start, MADV_DONTNEED);
	malloc_trim(0);
}
