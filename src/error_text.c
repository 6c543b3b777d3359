/* SPDX-License-Identifier: Apache-2.0 */
#include "error_text.h"

#include <string.h>

const char *error_text(int error)
{
	return strerror(error < 0 ? -error : error);
}
