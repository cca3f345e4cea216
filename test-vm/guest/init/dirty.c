/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "dirty.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <time.h>

#include "arena.h"

#define MIB_PAGES (1024u * 1024u / PAGE_BYTES)
#define TICKS_PER_SECOND 100u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint32_t pages, pages_per_tick;
static bool run;
static volatile uint8_t *memory;

/* False: as fast as it goes. */
static bool next_pass(uint32_t *count, uint32_t *per_tick)
{
    bool limited;

    pthread_mutex_lock(&lock);
    while (!run) {
        pthread_cond_wait(&changed, &lock);
    }
    *count = pages;
    *per_tick = pages_per_tick ? pages_per_tick : pages;
    limited = pages_per_tick != 0;
    pthread_mutex_unlock(&lock);
    return limited;
}

static void *dirty_loop(void *opaque)
{
    static const struct timespec tick = {
        .tv_nsec = 1000000000 / TICKS_PER_SECOND,
    };
    size_t next = 0;

    (void)opaque;
    for (;;) {
        uint32_t count, per_tick;
        bool limited = next_pass(&count, &per_tick);

        for (uint32_t i = 0; i < per_tick; i++) {
            next = (next + 1) % count;
            memory[next * PAGE_BYTES]++;
        }
        if (limited) {
            nanosleep(&tick, NULL);
        }
    }
    return NULL;
}

int dirty_init(void)
{
    pthread_t thread;
    void *start = mmap(NULL, (size_t)DIRTY_MIB_MAX * MIB_PAGES * PAGE_BYTES,
                       PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (start == MAP_FAILED) {
        return -1;
    }
    memory = start;
    return pthread_create(&thread, NULL, dirty_loop, NULL);
}

const char *dirty_start(uint32_t mib, uint32_t rate)
{
    if (mib == 0 || mib > DIRTY_MIB_MAX) {
        return "mb must be 1 to 128";
    }
    pthread_mutex_lock(&lock);
    pages = mib * MIB_PAGES;
    pages_per_tick = (uint32_t)((uint64_t)rate * MIB_PAGES / TICKS_PER_SECOND);
    if (rate && !pages_per_tick) {
        pages_per_tick = 1;
    }
    run = true;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
    return NULL;
}

void dirty_stop(void)
{
    pthread_mutex_lock(&lock);
    run = false;
    pthread_mutex_unlock(&lock);
}
