/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#ifndef COMMANDS_H
#define COMMANDS_H

#include "reply.h"
#include "words.h"

/* false: the answer comes later (a wait). */
bool command_run(const struct words *words, struct reply *reply);

#endif
