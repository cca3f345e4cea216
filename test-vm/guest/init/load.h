/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* A thread for each device that keeps it busy until it is told to stop. */
#ifndef LOAD_H
#define LOAD_H

#include "submit.h"

struct load_spec {
    struct dma_spec dma;
    uint32_t rate;          /* requests a second; 0: bursts */
    uint32_t burst;         /* so many at once, again when all have completed */
    uint32_t limit;         /* of unfinished requests */
    uint32_t total;         /* ends after so many; 0: goes on */
};

int load_init(void);
const char *load_start(unsigned int device, const struct load_spec *spec);
void load_stop(unsigned int device);
bool load_running(unsigned int device);
/* The last load ended by itself: the table of requests is full. */
bool load_full(unsigned int device);

#endif
