/* SPDX-License-Identifier: Apache-2.0 */
#include "tls_library.h"

#include <stdbool.h>
#include <stdio.h>

#ifdef FLOWD_STATIC

struct tls_library openssl = {TLS_FUNCTIONS(LIBRARY_HERE)};

int tls_library_need(char *error, size_t error_size)
{
	(void)error;
	(void)error_size;
	return 0;
}

#else

struct tls_library openssl;

int tls_library_need(char *error, size_t error_size)
{
	static const char *const names[] = {TLS_FUNCTIONS(LIBRARY_NAME)};
	static bool there;
	int r;

	if (there)
		return 0;
	r = library_load(FLOWD_TLS_LIBRARY, names, sizeof(names) / sizeof(*names), (void **)&openssl, error,
			 error_size);
	there = r == 0;
	return r;
}

#endif
