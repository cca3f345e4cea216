/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The arenas that sources and destinations are taken from. */
#ifndef MEMORY_H
#define MEMORY_H

#include "arena.h"

struct window {
    void *start;
    size_t bytes;
    uint64_t position;      /* in the pattern; sources only */
    struct arena *arena;
};

/* device_fd: whose held memory is used; -1: there is none. */
int memory_init(int device_fd);

/* 0, or -1 when the arena has no room now. */
int memory_source(enum memory_kind kind, size_t bytes, struct window *window);
int memory_destination(enum memory_kind kind, size_t bytes,
                       struct window *window);
void memory_free(struct window *window);

/* What a source holds at a position. */
uint64_t memory_word(uint64_t position);

#endif
