/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The test device of a guest without an IOMMU, by way of sysfs. Errors are texts. */
#ifndef PLAIN_H
#define PLAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "../../guest/init/layout.h"

/* Finds the device and enables it. */
const char *plain_open(void);
uint32_t plain_reg(unsigned int offset);
/* Empties the device, and lets it take requests. */
void plain_enable(void);
/* By the kernel, which keeps the configuration space. */
const char *plain_function_level_reset(void);
/* One copy of a page, and of what has never been copied before; the data is compared. */
const char *plain_dma(unsigned int timeout_ms);
/* How many have been done since the boot. */
uint32_t plain_total(void);

#endif
