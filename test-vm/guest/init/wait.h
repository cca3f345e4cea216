/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The one `wait` that may be pending while the main loop goes on. */
#ifndef WAIT_H
#define WAIT_H

#include "reply.h"
#include "words.h"

/*
 * NULL: it is pending now; else what is wrong with the command. It stays when the
 * other end goes: after a restore the news of that may come after the command of
 * the one that has come since.
 */
const char *wait_begin(const struct words *words);
bool wait_active(void);
/* Milliseconds until it must be looked at again, -1: at the next event. */
int wait_timeout_ms(void);
/* true: it is over, and reply tells how. */
bool wait_check(struct reply *reply);
/* Ends it, because another command has come. */
void wait_cancel(struct reply *reply);

#endif
