/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "wait.h"

#include <stdio.h>
#include <time.h>

#include "device.h"

#define TIMEOUT_DEFAULT_MS 30000
/* The module does not tell when a fault begins to wait. */
#define WAITERS_POLL_MS 2

static struct {
    bool active;
    bool idle;
    bool for_completed;
    bool for_waiters;
    uint32_t completed;
    uint32_t waiters;
    unsigned int first, end;    /* devices */
    uint64_t deadline_ms;
    char id[32];
} pending;

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

const char *wait_begin(const struct words *words)
{
    uint32_t timeout = TIMEOUT_DEFAULT_MS, device = DEVICES_MAX;

    pending.idle = words_has(words, "idle");
    pending.for_completed = words_value(words, "completed");
    pending.for_waiters = words_value(words, "waiters");
    if (!words_number(words, "completed", &pending.completed) ||
        !words_number(words, "waiters", &pending.waiters) ||
        !words_number(words, "timeout", &timeout) ||
        !words_number(words, "dev", &device)) {
        return "completed, waiters, timeout and dev take numbers";
    }
    if (pending.idle + pending.for_completed + pending.for_waiters != 1) {
        return "wait for one of: idle, completed=N, waiters=N";
    }
    if (words_value(words, "dev") && device >= device_count) {
        return "no such device";
    }
    pending.first = device == DEVICES_MAX ? 0 : device;
    pending.end = device == DEVICES_MAX ? device_count : device + 1;
    pending.deadline_ms = now_ms() + timeout;
    snprintf(pending.id, sizeof(pending.id), "%s", words->id ? words->id : "");
    pending.active = true;
    return NULL;
}

bool wait_active(void)
{
    return pending.active;
}

int wait_timeout_ms(void)
{
    uint64_t now = now_ms();

    if (pending.for_waiters) {
        return WAITERS_POLL_MS;
    }
    return pending.deadline_ms > now ? (int)(pending.deadline_ms - now) : 0;
}

static void answer(struct reply *reply, const char *error, uint32_t completed,
                   uint32_t unfinished, uint32_t waiters)
{
    reply_begin(reply);
    reply_bool(reply, "ok", !error);
    if (error) {
        reply_string(reply, "error", error);
    }
    if (pending.id[0]) {
        reply_string(reply, "id", pending.id);
    }
    reply_number(reply, "completed", completed);
    reply_number(reply, "unfinished", unfinished);
    reply_number(reply, "waiters", waiters);
    reply_end(reply);
    pending.active = false;
}

static bool settle(struct reply *reply, const char *cancelled)
{
    uint32_t completed = 0, unfinished = 0, waiters = device_waiters();
    bool reached;

    for (unsigned int i = pending.first; i < pending.end; i++) {
        struct totals totals;

        device_totals(&devices[i], &totals);
        completed += totals.completed;
        unfinished += totals.submitted - totals.completed;
    }
    reached = pending.idle ? unfinished == 0
            : pending.for_completed ? completed >= pending.completed
            : waiters >= pending.waiters;

    if (reached) {
        answer(reply, NULL, completed, unfinished, waiters);
    } else if (cancelled) {
        answer(reply, cancelled, completed, unfinished, waiters);
    } else if (now_ms() >= pending.deadline_ms) {
        answer(reply, "timeout", completed, unfinished, waiters);
    } else {
        return false;
    }
    return true;
}

bool wait_check(struct reply *reply)
{
    return settle(reply, NULL);
}

void wait_cancel(struct reply *reply)
{
    settle(reply, "another command came while waiting");
}
