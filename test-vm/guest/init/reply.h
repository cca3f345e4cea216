/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* One line of JSON in the making. */
#ifndef REPLY_H
#define REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct reply {
    char text[4096];
    size_t length;
    bool first;             /* no comma before the next member */
};

void reply_begin(struct reply *reply);
void reply_end(struct reply *reply);

void reply_bool(struct reply *reply, const char *name, bool value);
void reply_number(struct reply *reply, const char *name, uint64_t value);
void reply_address(struct reply *reply, const char *name, uint64_t value);
void reply_string(struct reply *reply, const char *name, const char *value);
void reply_open(struct reply *reply, const char *name, char bracket);
void reply_close(struct reply *reply, char bracket);
void reply_item(struct reply *reply, uint64_t value);

#endif
