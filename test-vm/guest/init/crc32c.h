/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#ifndef CRC32C_H
#define CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(const void *data, size_t bytes);

#endif
