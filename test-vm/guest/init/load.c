/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "load.h"

#include <time.h>

#define SECOND_NS 1000000000ull
#define TICK_NS 1000000ull
/* After a stop of the whole machine no more than this is made up for. */
#define BEHIND_MAX_NS (20 * TICK_NS)

struct load {
    struct device *device;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool run;
    bool active;
    struct load_spec spec;
    bool full;              /* these two are the thread's while it is active */
    uint32_t done;
};

static struct load loads[DEVICES_MAX];

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

static void sleep_until(uint64_t ns)
{
    struct timespec ts = {
        .tv_sec = (time_t)(ns / SECOND_NS),
        .tv_nsec = (long)(ns % SECOND_NS),
    };

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

static bool keep_running(struct load *load)
{
    bool run;

    pthread_mutex_lock(&load->lock);
    run = load->run;
    pthread_mutex_unlock(&load->lock);
    return run;
}

static bool table_full(struct device *device)
{
    struct totals totals;

    device_totals(device, &totals);
    return totals.submitted == REQUESTS_MAX;
}

/* As many of count as there is room for; false: no more will go out. */
static bool submit_some(struct load *load, uint64_t count)
{
    const struct load_spec *spec = &load->spec;
    uint32_t unfinished = device_unfinished(load->device), seq;

    for (; count && unfinished < spec->limit; count--, unfinished++) {
        if (submit(load->device, &spec->dma, &seq)) {
            load->full = table_full(load->device);
            return !load->full;
        }
        if (++load->done == spec->total) {
            return false;
        }
    }
    return true;
}

static bool step_rate(struct load *load, uint64_t *due)
{
    uint64_t interval = SECOND_NS / load->spec.rate, now = now_ns();

    if (*due + BEHIND_MAX_NS < now) {
        *due = now - BEHIND_MAX_NS;
    }
    if (*due <= now) {
        uint64_t count = (now - *due) / interval + 1;

        *due += count * interval;
        if (!submit_some(load, count)) {
            return false;
        }
    }
    sleep_until(*due > now + TICK_NS ? *due : now + TICK_NS);
    return true;
}

static bool step_burst(struct load *load)
{
    if (device_unfinished(load->device) == 0 &&
        !submit_some(load, load->spec.burst)) {
        return false;
    }
    sleep_until(now_ns() + TICK_NS);
    return true;
}

static void run_load(struct load *load)
{
    uint64_t due = now_ns();
    bool more = true;

    while (more && keep_running(load)) {
        more = load->spec.rate ? step_rate(load, &due) : step_burst(load);
    }
}

static void *load_loop(void *opaque)
{
    struct load *load = opaque;

    for (;;) {
        pthread_mutex_lock(&load->lock);
        while (!load->run) {
            pthread_cond_wait(&load->changed, &load->lock);
        }
        load->active = true;
        pthread_mutex_unlock(&load->lock);

        run_load(load);

        pthread_mutex_lock(&load->lock);
        load->run = false;
        load->active = false;
        pthread_cond_broadcast(&load->changed);
        pthread_mutex_unlock(&load->lock);
    }
    return NULL;
}

int load_init(void)
{
    for (unsigned int i = 0; i < device_count; i++) {
        pthread_t thread;

        loads[i].device = &devices[i];
        pthread_mutex_init(&loads[i].lock, NULL);
        pthread_cond_init(&loads[i].changed, NULL);
        if (pthread_create(&thread, NULL, load_loop, &loads[i])) {
            return -1;
        }
    }
    return 0;
}

const char *load_start(unsigned int device, const struct load_spec *spec)
{
    struct load *load = &loads[device];
    const char *error = NULL;

    pthread_mutex_lock(&load->lock);
    if (load->run || load->active) {
        error = "a load is running on this device";
    } else {
        load->spec = *spec;
        load->full = false;
        load->done = 0;
        load->run = true;
        pthread_cond_broadcast(&load->changed);
    }
    pthread_mutex_unlock(&load->lock);
    return error;
}

void load_stop(unsigned int device)
{
    struct load *load = &loads[device];

    pthread_mutex_lock(&load->lock);
    load->run = false;
    while (load->active) {
        pthread_cond_wait(&load->changed, &load->lock);
    }
    pthread_mutex_unlock(&load->lock);
}

bool load_running(unsigned int device)
{
    return keep_running(&loads[device]);
}

bool load_full(unsigned int device)
{
    struct load *load = &loads[device];
    bool full;

    pthread_mutex_lock(&load->lock);
    full = !load->active && load->full;
    pthread_mutex_unlock(&load->lock);
    return full;
}
