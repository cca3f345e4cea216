/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR BSD-3-Clause */
/*
 * What the guest's module and program agree on: the module's ioctls and mmap
 * offsets, and the contents of memory that nobody has written yet.
 */
#ifndef VSVA_GUEST_H
#define VSVA_GUEST_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Binds the caller's address space to the device; the answer is the PASID. */
#define VSVA_IOC_BIND		_IOR('v', 0xa0, __u32)
/* 1: faults of this file's held memory wait; 0: they all go on. */
#define VSVA_IOC_HOLD		_IOW('v', 0xa1, __u32)
/* The number of faults that wait now. */
#define VSVA_IOC_WAITERS	_IOR('v', 0xa2, __u32)
/* The number of interrupts that the device has raised. */
#define VSVA_IOC_INTERRUPTS	_IOR('v', 0xa3, __u32)

#define VSVA_MMAP_PORTAL	0x000000000ULL
#define VSVA_MMAP_HELD		0x100000000ULL
#define VSVA_MMAP_REGS		0x200000000ULL

/*
 * The pattern is a stream of 64-bit words without repetition; every piece of
 * source data is a window of it. A page of held memory is born with the window
 * that starts at its own virtual address.
 */
static inline __u64 vsva_pattern_word(__u64 position)
{
	__u64 x = position / 8 + 0x9e3779b97f4a7c15ULL;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

#endif
