/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Accesses to the device's memory, each by a plain load or store of one register.
 *
 * KVM on arm64 is told of an access that traps what is to be read or written only for these: one
 * that also changes its address register, of a pair, or of a vector ends in a bus error. A
 * compiler is free to choose any of them for a volatile object.
 */
#ifndef MMIO_H
#define MMIO_H

#include <stdint.h>

static inline void mmio_write64(volatile uint64_t *where, uint64_t value)
{
    __asm__ volatile("str %x0, [%1]" : : "rZ"(value), "r"(where) : "memory");
}

static inline void mmio_write32(volatile uint32_t *where, uint32_t value)
{
    __asm__ volatile("str %w0, [%1]" : : "rZ"(value), "r"(where) : "memory");
}

static inline uint64_t mmio_read64(const volatile uint64_t *where)
{
    uint64_t value;

    __asm__ volatile("ldr %x0, [%1]" : "=r"(value) : "r"(where) : "memory");
    return value;
}

static inline uint32_t mmio_read32(const volatile uint32_t *where)
{
    uint32_t value;

    __asm__ volatile("ldr %w0, [%1]" : "=r"(value) : "r"(where) : "memory");
    return value;
}

#endif
