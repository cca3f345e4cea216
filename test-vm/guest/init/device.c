/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "device.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../vsva_guest.h"
#include "mmio.h"

struct device devices[DEVICES_MAX];
unsigned int device_count;

static void *map(int fd, size_t bytes, uint64_t offset)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
                       : MAP_SHARED;
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd,
                       (off_t)offset);

    return start == MAP_FAILED ? NULL : start;
}

static const char *device_open(struct device *device, int fd)
{
    device->fd = fd;
    device->oldest_open = NO_REQUEST;
    device->newest_open = NO_REQUEST;
    device->totals.first_wrong = NO_REQUEST;
    pthread_mutex_init(&device->lock, NULL);

    device->regs = map(fd, REGS_BYTES, VSVA_MMAP_REGS);
    device->portal = map(fd, PORTAL_BYTES, VSVA_MMAP_PORTAL);
    if (!device->regs || !device->portal) {
        return "cannot map the device";
    }
    if (device_reg(device, REG_ID) != DEVICE_ID ||
        device_reg(device, REG_VERSION) != DEVICE_VERSION ||
        device_reg(device, REG_SLOTS) != SLOTS) {
        return "the device is of another kind or version";
    }
    if (ioctl(fd, VSVA_IOC_BIND, &device->pasid)) {
        return "cannot bind the address space to the device";
    }
    device->records = map(-1, REQUESTS_MAX * sizeof(struct record), 0);
    device->requests = map(-1, REQUESTS_MAX * sizeof(struct request), 0);
    if (!device->records || !device->requests) {
        return "no memory for the table of requests";
    }
    mmio_write32(&device->regs[REG_CTRL / 4], CTRL_RESET);
    mmio_write32(&device->regs[REG_CTRL / 4], CTRL_ENABLE);
    return NULL;
}

int devices_open(const char **error)
{
    while (device_count < DEVICES_MAX) {
        struct device *device = &devices[device_count];
        char path[32];
        int fd;

        snprintf(path, sizeof(path), "/dev/vsva%u", device_count);
        fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0) {
            return 0;
        }
        device->index = device_count;
        *error = device_open(device, fd);
        if (*error) {
            return -1;
        }
        device_count++;
    }
    return 0;
}

uint32_t device_interrupts(const struct device *device)
{
    uint32_t count = 0;

    ioctl(device->fd, VSVA_IOC_INTERRUPTS, &count);
    return count;
}

uint32_t device_reg(const struct device *device, unsigned int offset)
{
    return mmio_read32(&device->regs[offset / 4]);
}

uint64_t device_counter(const struct device *device, unsigned int offset)
{
    uint32_t high, low;

    do {
        high = device_reg(device, offset + 4);
        low = device_reg(device, offset);
    } while (device_reg(device, offset + 4) != high);
    return (uint64_t)high << 32 | low;
}

uint32_t device_unfinished(struct device *device)
{
    struct totals totals;

    device_totals(device, &totals);
    return totals.submitted - totals.completed;
}

void device_totals(struct device *device, struct totals *totals)
{
    pthread_mutex_lock(&device->lock);
    *totals = device->totals;
    pthread_mutex_unlock(&device->lock);
}

/* Held memory is the first device's. */
int device_hold(bool hold)
{
    uint32_t value = hold;

    return ioctl(devices[0].fd, VSVA_IOC_HOLD, &value);
}

uint32_t device_waiters(void)
{
    uint32_t waiters = 0;

    if (device_count) {
        ioctl(devices[0].fd, VSVA_IOC_WAITERS, &waiters);
    }
    return waiters;
}
