/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* One test device: its registers, its portal, its requests. */
#ifndef DEVICE_H
#define DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "layout.h"
#include "memory.h"

#define DEVICES_MAX 4
#define REQUESTS_MAX (256u * 1024u)
#define NO_REQUEST UINT32_MAX

struct request {
    struct window source;
    struct window destination;
    uint64_t tag;
    uint32_t length;
    uint32_t opcode;
    uint32_t next_open;     /* list of unfinished requests, oldest first */
};

struct half_slot {
    bool open;
    uint32_t seq;
    uint64_t words[SLOT_WORDS];
};

struct totals {
    uint32_t submitted;
    uint32_t completed;
    uint32_t good;
    uint32_t aborted;
    uint32_t wrong_data;
    uint32_t wrong_crc;
    uint32_t wrong_record;
    uint32_t first_wrong;
};

struct device {
    unsigned int index;
    int fd;
    uint32_t pasid;
    volatile uint32_t *regs;
    volatile uint64_t *portal;
    struct record *records;
    struct request *requests;

    pthread_mutex_t lock;       /* all that follows */
    uint32_t oldest_open;
    uint32_t newest_open;
    struct half_slot half;
    struct totals totals;
};

extern struct device devices[DEVICES_MAX];
extern unsigned int device_count;

/* Opens /dev/vsva*, binds the program's address space, enables the engines. */
int devices_open(const char **error);

uint32_t device_reg(const struct device *device, unsigned int offset);
/* What the device has raised. */
uint32_t device_interrupts(const struct device *device);
uint64_t device_counter(const struct device *device, unsigned int offset);

uint32_t device_unfinished(struct device *device);
void device_totals(struct device *device, struct totals *totals);

int device_hold(bool hold);
uint32_t device_waiters(void);

#endif
