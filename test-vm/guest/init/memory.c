/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#define _GNU_SOURCE
#include "memory.h"

#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../vsva_guest.h"

#define MIB (1024u * 1024u)
#define ARENA_BYTES (64u * MIB)
#define FILE_BYTES (16u * MIB)

/* Where each kind of source lies in the pattern: they never overlap. */
#define POSITION_FILE (1ull << 60)
#define POSITION_WARM (1ull << 61)

static struct arena file_arena, anonymous_arena, held_arena, warm_arena;
static _Atomic uint64_t warm_position = POSITION_WARM;

uint64_t memory_word(uint64_t position)
{
    if (position >= POSITION_FILE && position < POSITION_WARM) {
        position = POSITION_FILE + (position - POSITION_FILE) % FILE_BYTES;
    }
    return vsva_pattern_word(position);
}

static void fill(void *start, size_t bytes, uint64_t position)
{
    uint64_t *words = start;

    for (size_t i = 0; i < (bytes + 7) / 8; i++) {
        words[i] = memory_word(position + 8 * i);
    }
}

static void *reserve(size_t bytes)
{
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return start == MAP_FAILED ? NULL : start;
}

static int make_file(void)
{
    int fd = memfd_create("source", MFD_CLOEXEC);
    void *shared;

    if (fd < 0 || ftruncate(fd, FILE_BYTES)) {
        return -1;
    }
    shared = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED) {
        return -1;
    }
    fill(shared, FILE_BYTES, POSITION_FILE);
    munmap(shared, FILE_BYTES);
    return fd;
}

/* The file, mapped again and again: much untouched memory from little RAM. */
static void *map_file(void)
{
    int fd = make_file();
    uint8_t *start = reserve(ARENA_BYTES);

    if (fd < 0 || !start) {
        return NULL;
    }
    for (size_t at = 0; at < ARENA_BYTES; at += FILE_BYTES) {
        if (mmap(start + at, FILE_BYTES, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED) {
            return NULL;
        }
    }
    return start;
}

int memory_init(int device_fd)
{
    void *file = map_file();
    void *anonymous = reserve(ARENA_BYTES);
    void *warm = reserve(ARENA_BYTES);
    void *held = MAP_FAILED;

    if (!file || !anonymous || !warm) {
        return -1;
    }
    if (device_fd >= 0) {
        held = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
                    device_fd, (off_t)VSVA_MMAP_HELD);
        if (held == MAP_FAILED) {
            return -1;
        }
    }
    if (arena_init(&file_arena, file, ARENA_BYTES, true) ||
        arena_init(&anonymous_arena, anonymous, ARENA_BYTES, true) ||
        arena_init(&warm_arena, warm, ARENA_BYTES, false) ||
        arena_init(&held_arena, held,
                   held == MAP_FAILED ? 0 : ARENA_BYTES, true)) {
        return -1;
    }
    return 0;
}

static int take(struct arena *arena, size_t bytes, struct window *window)
{
    window->arena = arena;
    window->bytes = bytes;
    window->start = arena_alloc(arena, bytes);
    return window->start ? 0 : -1;
}

int memory_source(enum memory_kind kind, size_t bytes, struct window *window)
{
    size_t padded = (bytes + 7) / 8 * 8;

    switch (kind) {
    case MEMORY_FRESH:
        if (take(&file_arena, bytes, window)) {
            return -1;
        }
        window->position = POSITION_FILE +
            (size_t)((uint8_t *)window->start - file_arena.base);
        return 0;
    case MEMORY_HELD:
        if (take(&held_arena, bytes, window)) {
            return -1;
        }
        window->position = (uintptr_t)window->start;
        return 0;
    default:
        if (take(&warm_arena, bytes, window)) {
            return -1;
        }
        window->position = atomic_fetch_add(&warm_position, padded);
        fill(window->start, bytes, window->position);
        return 0;
    }
}

int memory_destination(enum memory_kind kind, size_t bytes,
                       struct window *window)
{
    switch (kind) {
    case MEMORY_FRESH:
        return take(&anonymous_arena, bytes, window);
    case MEMORY_HELD:
        return take(&held_arena, bytes, window);
    default:
        if (take(&warm_arena, bytes, window)) {
            return -1;
        }
        for (size_t at = 0; at < bytes; at += PAGE_BYTES) {
            ((volatile uint8_t *)window->start)[at] = 0;
        }
        return 0;
    }
}

void memory_free(struct window *window)
{
    if (window->arena) {
        arena_free(window->arena, window->start, window->bytes);
        window->arena = NULL;
    }
}
