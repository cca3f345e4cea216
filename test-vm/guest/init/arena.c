/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "arena.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE_CLEAN, PAGE_USED, PAGE_STALE };

static size_t page_count(size_t bytes)
{
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES;
}

int arena_init(struct arena *arena, void *base, size_t bytes, bool recycle)
{
    arena->base = base;
    arena->pages = bytes / PAGE_BYTES;
    arena->next = 0;
    arena->used = 0;
    arena->recycle = recycle;
    arena->state = calloc(arena->pages, 1);
    pthread_mutex_init(&arena->lock, NULL);
    return arena->state ? 0 : -1;
}

static void recycle_stale(struct arena *arena)
{
    size_t i = 0;

    while (i < arena->pages) {
        size_t start = i;

        while (i < arena->pages && arena->state[i] == PAGE_STALE) {
            arena->state[i++] = PAGE_CLEAN;
        }
        if (i == start) {
            i++;
        } else if (arena->recycle) {
            madvise(arena->base + start * PAGE_BYTES,
                    (i - start) * PAGE_BYTES, MADV_DONTNEED);
        }
    }
}

static bool find_run(const struct arena *arena, size_t from, size_t to,
                     size_t count, size_t *found)
{
    size_t run = 0;

    for (size_t i = from; i < to; i++) {
        run = arena->state[i] == PAGE_CLEAN ? run + 1 : 0;
        if (run == count) {
            *found = i + 1 - count;
            return true;
        }
    }
    return false;
}

static bool find_clean(const struct arena *arena, size_t count, size_t *found)
{
    return find_run(arena, arena->next, arena->pages, count, found) ||
           find_run(arena, 0, arena->pages, count, found);
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
    size_t count = page_count(bytes), first;
    void *start = NULL;

    pthread_mutex_lock(&arena->lock);
    if (arena->used + count <= arena->pages) {
        bool found = find_clean(arena, count, &first);

        if (!found) {
            recycle_stale(arena);
            found = find_clean(arena, count, &first);
        }
        if (found) {
            for (size_t i = 0; i < count; i++) {
                arena->state[first + i] = PAGE_USED;
            }
            arena->next = first + count;
            arena->used += count;
            start = arena->base + first * PAGE_BYTES;
        }
    }
    pthread_mutex_unlock(&arena->lock);
    return start;
}

void arena_free(struct arena *arena, void *start, size_t bytes)
{
    size_t first = ((uint8_t *)start - arena->base) / PAGE_BYTES;
    size_t count = page_count(bytes);

    pthread_mutex_lock(&arena->lock);
    for (size_t i = 0; i < count; i++) {
        arena->state[first + i] = PAGE_STALE;
    }
    arena->used -= count;
    pthread_mutex_unlock(&arena->lock);
}
