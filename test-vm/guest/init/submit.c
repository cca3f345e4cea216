/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "submit.h"

#include <string.h>

#include "check.h"
#include "crc32c.h"
#include "mmio.h"

#define HALF_WORDS (SLOT_WORDS / 2)

static void store_words(struct device *device, uint32_t seq,
                        const uint64_t *words, unsigned int from,
                        unsigned int to)
{
    volatile uint64_t *slot = device->portal + (seq % SLOTS) * SLOT_WORDS;

    for (unsigned int i = from; i < to; i++) {
        /* The last word makes the slot valid; the engine may look at once. */
        if (i == SLOT_WORDS - 1) {
            __asm__ volatile("dsb st" ::: "memory");
        }
        mmio_write64(&slot[i], words[i]);
    }
}

static void describe(const struct device *device, const struct request *request,
                     uint32_t seq, uint64_t *words)
{
    struct slot slot = {
        .source = (uintptr_t)request->source.start,
        .destination = (uintptr_t)request->destination.start,
        .length = request->length,
        .pasid = device->pasid | SLOT_VALID_PASID,
        .record = (uintptr_t)&device->records[seq],
        .opcode = request->opcode,
        .tag = request->tag,
        .valid = seq + 1,
    };

    slot.crc = crc32c(&slot, SLOT_CRC_BYTES);
    memcpy(words, &slot, sizeof(slot));
}

static const char *take_memory(const struct dma_spec *spec,
                               struct request *request)
{
    if (spec->opcode != OP_FILL &&
        memory_source(spec->source, spec->length, &request->source)) {
        return "no room for the source until requests have completed";
    }
    if (spec->opcode != OP_CHECKSUM &&
        memory_destination(spec->destination, spec->length,
                           &request->destination)) {
        memory_free(&request->source);
        return "no room for the destination until requests have completed";
    }
    return NULL;
}

static void append_open(struct device *device, uint32_t seq)
{
    device->requests[seq].next_open = NO_REQUEST;
    if (device->newest_open == NO_REQUEST) {
        device->oldest_open = seq;
    } else {
        device->requests[device->newest_open].next_open = seq;
    }
    device->newest_open = seq;
}

static bool all_warm(const struct dma_spec *spec)
{
    return (spec->opcode == OP_FILL || spec->source == MEMORY_WARM) &&
           (spec->opcode == OP_CHECKSUM || spec->destination == MEMORY_WARM);
}

static const char *enqueue(struct device *device, const struct dma_spec *spec,
                           const struct request *template, bool half,
                           uint32_t *result)
{
    struct totals *totals = &device->totals;
    uint32_t seq = totals->submitted;
    struct request *request;
    uint64_t words[SLOT_WORDS];

    if (seq == REQUESTS_MAX) {
        return "the table of requests is full";
    }
    if (device->oldest_open != NO_REQUEST && seq - device->oldest_open == SLOTS) {
        return "the next slot is still in use";
    }
    if (half && device->half.open) {
        return "there is a half-written slot already";
    }

    request = &device->requests[seq];
    *request = *template;
    request->tag = (uint64_t)(device->index + 1) << 48 | seq;
    if (all_warm(spec)) {
        ((volatile struct record *)device->records)[seq].status = 0;
    }
    describe(device, request, seq, words);
    append_open(device, seq);
    totals->submitted++;

    store_words(device, seq, words, 0, half ? HALF_WORDS : SLOT_WORDS);
    if (half) {
        device->half.open = true;
        device->half.seq = seq;
        memcpy(device->half.words, words, sizeof(words));
    }
    *result = seq;
    return NULL;
}

static const char *submit_one(struct device *device,
                              const struct dma_spec *spec, bool half,
                              uint32_t *seq)
{
    struct request request = {
        .length = spec->length,
        .opcode = spec->opcode,
    };
    const char *error = take_memory(spec, &request);

    if (error) {
        return error;
    }
    pthread_mutex_lock(&device->lock);
    error = enqueue(device, spec, &request, half, seq);
    pthread_mutex_unlock(&device->lock);
    if (error) {
        memory_free(&request.source);
        memory_free(&request.destination);
    } else {
        check_wake();
    }
    return error;
}

const char *submit(struct device *device, const struct dma_spec *spec,
                   uint32_t *seq)
{
    return submit_one(device, spec, false, seq);
}

const char *submit_half(struct device *device, const struct dma_spec *spec,
                        uint32_t *seq)
{
    return submit_one(device, spec, true, seq);
}

const char *submit_rest(struct device *device, uint32_t *seq)
{
    const char *error = NULL;

    pthread_mutex_lock(&device->lock);
    if (device->half.open) {
        *seq = device->half.seq;
        store_words(device, *seq, device->half.words, HALF_WORDS, SLOT_WORDS);
        device->half.open = false;
    } else {
        error = "there is no half-written slot";
    }
    pthread_mutex_unlock(&device->lock);
    return error;
}
