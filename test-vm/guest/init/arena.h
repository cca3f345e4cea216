/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Address ranges for the device to read and write. All of them are mapped at
 * start: while a fault is held, mmap(), munmap() and brk() would wait for it.
 */
#ifndef ARENA_H
#define ARENA_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096u

enum memory_kind {
    MEMORY_FRESH,
    MEMORY_HELD,
    MEMORY_WARM,
    MEMORY_KINDS,
};

struct arena {
    uint8_t *base;
    size_t pages;
    size_t next;
    size_t used;
    uint8_t *state;
    bool recycle;
    pthread_mutex_t lock;
};

/*
 * With recycle, what arena_alloc() returns has not been touched since it was
 * mapped or since it was freed.
 */
int arena_init(struct arena *arena, void *base, size_t bytes, bool recycle);
void *arena_alloc(struct arena *arena, size_t bytes);
void arena_free(struct arena *arena, void *start, size_t bytes);

#endif
