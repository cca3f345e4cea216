/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "words.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool words_parse(struct words *words, char *line)
{
    char *save, *word;

    words->id = NULL;
    words->count = 0;
    for (word = strtok_r(line, " \t\r", &save); word;
         word = strtok_r(NULL, " \t\r", &save)) {
        if (word[0] == '#' && words->count == 0 && !words->id) {
            words->id = word + 1;
        } else if (words->count == WORDS_MAX) {
            return false;
        } else {
            words->word[words->count++] = word;
        }
    }
    return true;
}

const char *words_value(const struct words *words, const char *key)
{
    size_t length = strlen(key);

    for (unsigned int i = 1; i < words->count; i++) {
        if (strncmp(words->word[i], key, length) == 0 &&
            words->word[i][length] == '=') {
            return words->word[i] + length + 1;
        }
    }
    return NULL;
}

bool words_has(const struct words *words, const char *word)
{
    for (unsigned int i = 1; i < words->count; i++) {
        if (strcmp(words->word[i], word) == 0) {
            return true;
        }
    }
    return false;
}

bool parse_number(const char *text, uint32_t *value)
{
    unsigned long number;
    char *end;

    errno = 0;
    number = strtoul(text, &end, 0);
    if (text[0] < '0' || text[0] > '9' || *end || errno ||
        number > UINT32_MAX) {
        return false;
    }
    *value = (uint32_t)number;
    return true;
}

bool words_number(const struct words *words, const char *key, uint32_t *value)
{
    const char *text = words_value(words, key);

    return !text || parse_number(text, value);
}
