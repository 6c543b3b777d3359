// SPDX-License-Identifier: Apache-2.0
/* rule_index_texts.c - an index in the making: names of applications. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rule_index_builder.h"

/* b->set: the rules that a text (or, of a start, every text that begins so) satisfies. */
static void collect_text(struct rule_builder *b, const struct condition *of)
{
	const char *texts = b->x->texts;

	rule_builder_copy(b, b->set, b->untested);
	for (uint32_t i = 0; i < b->count; i++) {
		const struct condition *c = &b->c[i];
		bool whole = !of->bits && !c->bits && c->first == of->first;
		bool start = c->bits && c->first <= of->first;

		if ((whole || start) && memcmp(texts + c->text, texts + of->text, c->first) == 0)
			rule_set_add(b->set, c->rule);
	}
}

static int add_text(struct rule_builder *b, const struct condition *c)
{
	struct rule_index *x = b->x;
	const char *text = x->texts + c->text;
	uint64_t hash = TEXT_HASH_SEED;
	struct text_entry *entry;

	for (uint32_t i = 0; i < c->first; i++)
		hash = text_hash(hash, text[i]);
	entry = &x->texts_table[text_place(x, hash, text, (uint32_t)c->first, c->bits)];
	if (entry->used)
		return 0;
	*entry = (struct text_entry){
		.hash = hash, .text = c->text, .length = (uint8_t)c->first, .start = c->bits, .used = true};
	if (c->bits)
		x->start_lengths |= 1ULL << c->first;
	collect_text(b, c);
	return rule_builder_intern(b, &entry->set);
}

static int begin(struct rule_builder *b)
{
	struct rule_index *x = b->x;
	uint32_t size = 4;

	rule_builder_use(b, AXIS_APPLICATION);
	while (size < 2 * b->count)
		size *= 2;
	x->texts_table = calloc(size, sizeof(*x->texts_table));
	if (!x->texts_table)
		return -ENOMEM;
	x->texts_mask = size - 1;
	b->phase = 1;
	rule_builder_copy(b, b->set, b->untested);
	return rule_builder_intern(b, &x->text_other);
}

int rule_builder_applications(struct rule_builder *b)
{
	int err = 0;

	if (b->phase == 0) {
		if (!rule_builder_select(b, RULE_APPLICATION))
			return 0;
		err = begin(b);
	}
	while (b->at < b->count && err == 0) {
		err = add_text(b, &b->c[b->at++]);
		if (err == 0 && rule_builder_enough(b, b->count + b->x->words))
			return 1;
	}
	return err;
}
