/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The test device's registers, portal slots and completion records. */
#ifndef LAYOUT_H
#define LAYOUT_H

#include <stdint.h>

#define REGS_BYTES 4096u
#define REG_ID 0x00
#define REG_VERSION 0x04
#define REG_CTRL 0x08
#define REG_STATUS 0x0c
#define REG_SLOTS 0x10
#define REG_NEXT 0x14
#define REG_INFLIGHT 0x18
#define REG_STARTED 0x20
#define REG_COMPLETED 0x28
#define REG_ABORTED 0x30
#define REG_FAULTS 0x38
#define REG_RETRIED 0x40
#define REG_TRAPPED 0x48
#define REG_REPLAYED 0x50
#define REG_BAD_DESC 0x58
#define REG_DUPLICATES 0x60
#define REG_GAPS 0x68
#define REG_BAD_RESPONSES 0x70

#define DEVICE_ID 0x76535641u
#define DEVICE_VERSION 1u
#define CTRL_ENABLE 1u
#define CTRL_RESET 2u

#define SLOTS 65536u
#define SLOT_WORDS 8u
#define SLOT_CRC_BYTES 0x38u
#define SLOT_VALID_PASID (1u << 31)
#define PORTAL_BYTES (SLOTS * SLOT_WORDS * 8u)
#define LENGTH_MAX (1024u * 1024u)

enum opcode { OP_COPY = 1, OP_CHECKSUM = 2, OP_FILL = 3 };

enum { RECORD_OK = 1, RECORD_ABORTED = 2 };

struct slot {
    uint64_t source;
    uint64_t destination;
    uint32_t length;
    uint32_t pasid;
    uint64_t record;
    uint32_t opcode;
    uint32_t flags;
    uint64_t tag;
    uint64_t reserved;
    uint32_t crc;
    uint32_t valid;
};

struct record {
    uint64_t tag;
    uint32_t status;
    uint32_t crc;
    uint32_t count;
    uint32_t order;
    uint32_t faults;
    uint32_t reserved;
};

_Static_assert(sizeof(struct slot) == SLOT_WORDS * 8, "slot");
_Static_assert(sizeof(struct record) == 32, "record");

#endif
