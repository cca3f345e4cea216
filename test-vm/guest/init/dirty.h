/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* A thread that keeps writing ordinary memory, so that RAM does not converge. */
#ifndef DIRTY_H
#define DIRTY_H

#include <stdint.h>

#define DIRTY_MIB_MAX 128u

int dirty_init(void);
/* rate in MiB a second; 0: as fast as it goes. */
const char *dirty_start(uint32_t mib, uint32_t rate);
void dirty_stop(void);

#endif
