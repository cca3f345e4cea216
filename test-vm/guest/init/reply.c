/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "reply.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

__attribute__((format(printf, 2, 3)))
static void append(struct reply *reply, const char *format, ...)
{
    size_t room = sizeof(reply->text) - reply->length;
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(reply->text + reply->length, room, format, arguments);
    va_end(arguments);
    if (length > 0 && (size_t)length < room) {
        reply->length += (size_t)length;
    }
}

static void name(struct reply *reply, const char *name)
{
    append(reply, reply->first ? "\"%s\":" : ",\"%s\":", name);
    reply->first = false;
}

void reply_begin(struct reply *reply)
{
    reply->length = 0;
    reply->first = true;
    append(reply, "{");
}

void reply_end(struct reply *reply)
{
    append(reply, "}\n");
}

void reply_bool(struct reply *reply, const char *key, bool value)
{
    name(reply, key);
    append(reply, "%s", value ? "true" : "false");
}

void reply_number(struct reply *reply, const char *key, uint64_t value)
{
    name(reply, key);
    append(reply, "%" PRIu64, value);
}

void reply_address(struct reply *reply, const char *key, uint64_t value)
{
    name(reply, key);
    append(reply, "\"0x%" PRIx64 "\"", value);
}

void reply_string(struct reply *reply, const char *key, const char *value)
{
    name(reply, key);
    append(reply, "\"");
    for (; *value; value++) {
        unsigned char c = (unsigned char)*value;

        if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\') {
            append(reply, "\\u%04x", c);
        } else {
            append(reply, "%c", c);
        }
    }
    append(reply, "\"");
}

void reply_open(struct reply *reply, const char *key, char bracket)
{
    name(reply, key);
    append(reply, "%c", bracket);
    reply->first = true;
}

void reply_close(struct reply *reply, char bracket)
{
    append(reply, "%c", bracket);
    reply->first = false;
}

void reply_item(struct reply *reply, uint64_t value)
{
    append(reply, reply->first ? "%" PRIu64 : ",%" PRIu64, value);
    reply->first = false;
}
