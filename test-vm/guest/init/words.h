/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* A command line, cut into words: NAME, plain words, KEY=VALUE. */
#ifndef WORDS_H
#define WORDS_H

#include <stdbool.h>
#include <stdint.h>

#define WORDS_MAX 16

struct words {
    const char *id;             /* from "#ID" in front, or NULL */
    unsigned int count;
    const char *word[WORDS_MAX];
};

/* false: too many words. The line is changed, and the words lie in it. */
bool words_parse(struct words *words, char *line);

/* The value of KEY=VALUE, or NULL. */
const char *words_value(const struct words *words, const char *key);
/* A plain word that is somewhere after the command's name. */
bool words_has(const struct words *words, const char *word);
/* false: neither absent, which leaves value alone, nor a number. */
bool words_number(const struct words *words, const char *key, uint32_t *value);
bool parse_number(const char *text, uint32_t *value);

#endif
