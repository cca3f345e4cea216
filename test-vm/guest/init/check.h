/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Finds completed requests, compares what the device did with what it was to
 * do, and gives the memory back.
 */
#ifndef CHECK_H
#define CHECK_H

#include "device.h"

struct verdict {
    uint32_t checked;
    uint32_t wrong_data;
    uint32_t wrong_crc;
    uint32_t wrong_record;
    uint32_t not_once;
    uint32_t out_of_order;
    uint32_t aborted;
    uint32_t missing;
    uint32_t first_wrong;
};

/* progress_fd: an eventfd that is written after each batch of completions. */
int check_start(int progress_fd);
void check_wake(void);

void check_verdict(struct device *device, struct verdict *verdict);

#endif
