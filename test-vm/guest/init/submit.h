/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Puts requests into a device's portal. */
#ifndef SUBMIT_H
#define SUBMIT_H

#include "device.h"

struct dma_spec {
    enum opcode opcode;
    uint32_t length;
    enum memory_kind source;
    enum memory_kind destination;
};

/* NULL, or why not. */
const char *submit(struct device *device, const struct dma_spec *spec,
                   uint32_t *seq);
const char *submit_half(struct device *device, const struct dma_spec *spec,
                        uint32_t *seq);
const char *submit_rest(struct device *device, uint32_t *seq);

#endif
