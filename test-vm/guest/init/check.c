/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "check.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#include "crc32c.h"

#define BATCH 256
#define NEAR_SCAN 1024
#define FULL_SCAN_EVERY 64
#define POLL_NS 1000000

static pthread_mutex_t wake_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static bool awake;

void check_wake(void)
{
    pthread_mutex_lock(&wake_lock);
    if (!awake) {
        awake = true;
        pthread_cond_signal(&wake);
    }
    pthread_mutex_unlock(&wake_lock);
}

static uint32_t record_status(struct device *device, uint32_t seq)
{
    return __atomic_load_n(&device->records[seq].status, __ATOMIC_ACQUIRE);
}

static unsigned int collect(struct device *device, bool full, uint32_t *done)
{
    uint32_t previous = NO_REQUEST, seq;
    unsigned int found = 0, steps = 0;

    pthread_mutex_lock(&device->lock);
    for (seq = device->oldest_open; seq != NO_REQUEST && found < BATCH; ) {
        uint32_t next = device->requests[seq].next_open;

        if (!full && ++steps > NEAR_SCAN) {
            break;
        }
        if (record_status(device, seq)) {
            done[found++] = seq;
            if (previous == NO_REQUEST) {
                device->oldest_open = next;
            } else {
                device->requests[previous].next_open = next;
            }
            if (next == NO_REQUEST) {
                device->newest_open = previous;
            }
        } else {
            previous = seq;
        }
        seq = next;
    }
    pthread_mutex_unlock(&device->lock);
    return found;
}

/* The bytes the request is about, as they must be now. */
static void expected_bytes(const struct request *request, uint8_t *bytes)
{
    if (request->opcode == OP_FILL) {
        memset(bytes, request->tag & 0xff, request->length);
        return;
    }
    for (uint32_t at = 0; at < request->length; at += 8) {
        uint64_t word = memory_word(request->source.position + at);

        memcpy(bytes + at, &word, sizeof(word));
    }
}

static void judge(struct device *device, uint32_t seq, struct totals *found)
{
    static uint8_t expected[LENGTH_MAX + 8];
    struct request *request = &device->requests[seq];
    const struct record *record = &device->records[seq];
    bool wrong = false;

    found->completed++;
    if (record->status == RECORD_ABORTED) {
        found->aborted++;
    } else {
        expected_bytes(request, expected);
        if (request->opcode != OP_CHECKSUM &&
            memcmp(request->destination.start, expected, request->length)) {
            found->wrong_data++;
            wrong = true;
        }
        if (record->crc != crc32c(expected, request->length)) {
            found->wrong_crc++;
            wrong = true;
        }
        found->good += record->status == RECORD_OK && !wrong;
    }
    if (record->tag != request->tag || record->status > RECORD_ABORTED) {
        found->wrong_record++;
        wrong = true;
    }
    if (wrong && seq < found->first_wrong) {
        found->first_wrong = seq;
    }
    memory_free(&request->source);
    memory_free(&request->destination);
}

static void add_totals(struct device *device, const struct totals *found)
{
    struct totals *totals = &device->totals;

    pthread_mutex_lock(&device->lock);
    totals->completed += found->completed;
    totals->good += found->good;
    totals->aborted += found->aborted;
    totals->wrong_data += found->wrong_data;
    totals->wrong_crc += found->wrong_crc;
    totals->wrong_record += found->wrong_record;
    if (found->first_wrong < totals->first_wrong) {
        totals->first_wrong = found->first_wrong;
    }
    pthread_mutex_unlock(&device->lock);
}

static bool check_device(struct device *device, bool full)
{
    uint32_t done[BATCH];
    struct totals found = { .first_wrong = NO_REQUEST };
    unsigned int count = collect(device, full, done);

    for (unsigned int i = 0; i < count; i++) {
        judge(device, done[i], &found);
    }
    if (count) {
        add_totals(device, &found);
    }
    return count > 0;
}

static bool anything_open(void)
{
    bool open = false;

    for (unsigned int i = 0; i < device_count; i++) {
        open |= device_unfinished(&devices[i]) > 0;
    }
    return open;
}

static void wait_for_work(void)
{
    static const struct timespec pause = { .tv_nsec = POLL_NS };

    pthread_mutex_lock(&wake_lock);
    while (!awake) {
        pthread_cond_wait(&wake, &wake_lock);
    }
    /* Cleared before the look, so that a request made meanwhile is seen. */
    awake = false;
    pthread_mutex_unlock(&wake_lock);
    if (anything_open()) {
        check_wake();
        nanosleep(&pause, NULL);
    }
}

static void *check_loop(void *opaque)
{
    int progress_fd = *(int *)opaque;

    for (unsigned int round = 0;; round++) {
        bool progress = false;

        for (unsigned int i = 0; i < device_count; i++) {
            progress |= check_device(&devices[i], round % FULL_SCAN_EVERY == 0);
        }
        if (progress) {
            uint64_t one = 1;

            /* Full only if it has not been read yet: then it is readable. */
            (void)!write(progress_fd, &one, sizeof(one));
        } else {
            wait_for_work();
        }
    }
    return NULL;
}

int check_start(int progress_fd)
{
    static int fd;
    pthread_t thread;

    fd = progress_fd;
    return pthread_create(&thread, NULL, check_loop, &fd);
}

void check_verdict(struct device *device, struct verdict *verdict)
{
    struct totals totals;

    device_totals(device, &totals);
    *verdict = (struct verdict) {
        .checked = totals.completed - totals.aborted,
        .wrong_data = totals.wrong_data,
        .wrong_crc = totals.wrong_crc,
        .wrong_record = totals.wrong_record,
        .aborted = totals.aborted,
        .missing = totals.submitted - totals.completed,
        .first_wrong = totals.first_wrong,
    };

    for (uint32_t seq = 0; seq < totals.submitted; seq++) {
        const struct record *record = &device->records[seq];

        if (!record_status(device, seq)) {
            continue;
        }
        if (record->count != 1) {
            verdict->not_once++;
        }
        if (record->order != seq) {
            verdict->out_of_order++;
        }
        if ((record->count != 1 || record->order != seq) &&
            seq < verdict->first_wrong) {
            verdict->first_wrong = seq;
        }
    }
}
