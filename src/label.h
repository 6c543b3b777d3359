/* SPDX-License-Identifier: Apache-2.0 */
/*
 * label.h - what marked packets carry: the IPv6 flow label of 20 bits (RFC 6437)
 * and the SciTags option of an extension header.
 *
 *   bit 19 18 | 17 ............ 9 |  8  | 7 ........ 2 | 1 0
 *    entropy  | experiment, its 9 | en- |  activity,   | entropy
 *             | bits REVERSED     | tropy |  6 bits    |
 *
 * Experiment 1..511, activity 1..63. The five entropy bits are random for each flow
 * and the same for all of its life: routers hash on the label.
 */
#ifndef LABEL_H
#define LABEL_H

#include "flow_abi.h"
#include "ffi_export.h"

enum {
	LABEL_MASK = 0xFFFFF,
	LABEL_SEMANTIC_MASK = 0x3FEFC, /* experiment and activity */
	LABEL_ENTROPY_MASK = 0xC0103,
};

/* The option and the extension header that holds it alone. */
enum {
	LABEL_OPTION_TYPE = 0x1E, /* skip if unknown, unchanged en route, experimental (RFC 4727) */
	LABEL_OPTION_LENGTH = 3,
	LABEL_HEADER_SIZE = 8,
};

/* The label of an experiment and an activity, with the five low bits of entropy5 as its
 * entropy. 0, which is no valid label, when an id is unset or out of range. */
FFI_EXPORT uint32_t label_encode(uint32_t experiment, uint32_t activity, uint32_t entropy5);

/* The parts of a label. Bits above the 20th are ignored. */
FFI_EXPORT uint32_t label_experiment(uint32_t label);
FFI_EXPORT uint32_t label_activity(uint32_t label);
FFI_EXPORT uint32_t label_entropy(uint32_t label);

/*
 * Write an extension header with the SciTags option: hop-by-hop or destination options,
 * which only the header before it tells apart. `out` has room for LABEL_HEADER_SIZE octets;
 * next_header is the protocol of what follows. 0, or -EINVAL when an id is out of range.
 */
FFI_EXPORT int label_header_encode(uint8_t *out, uint8_t next_header, uint32_t experiment, uint32_t activity);

#endif
