/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "crc32c.h"

#include <arm_acle.h>
#include <string.h>

uint32_t crc32c(const void *data, size_t bytes)
{
    const uint8_t *p = data;
    uint32_t crc = ~0u;

    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint64_t word;

        memcpy(&word, p, sizeof(word));
        crc = __crc32cd(crc, word);
    }
    for (; bytes; bytes--, p++) {
        crc = __crc32cb(crc, *p);
    }
    return ~crc;
}
