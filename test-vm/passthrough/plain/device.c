/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "plain.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../../guest/init/crc32c.h"
#include "../../guest/init/mmio.h"

#define DEVICES "/sys/bus/pci/devices/*"
#define VENDOR "0x19e5\n"
#define PAGE 4096u
#define COMMAND_OFFSET 4
#define COMMAND_MEMORY_MASTER 6
#define PFN_MASK ((1ull << 55) - 1)
#define STEP_NS 200000

enum { SOURCE, DESTINATION, RECORD, PAGES };

static char folder[64];
static volatile uint32_t *regs;
static volatile uint64_t *portal;
static uint8_t *memory;
static uint64_t physical[PAGES];
static uint32_t seq, total;

static int open_file(const char *name, int flags)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return open(path, flags | O_CLOEXEC);
}

static const char *find(void)
{
    glob_t found;

    if (glob(DEVICES, 0, NULL, &found)) {
        return "no PCI";
    }
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char text[16] = "";
        int fd;

        snprintf(folder, sizeof(folder), "%s", found.gl_pathv[i]);
        fd = open_file("vendor", O_RDONLY);
        if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 &&
            strcmp(text, VENDOR) == 0) {
            close(fd);
            return NULL;
        }
        close(fd);
    }
    return "there is no test device";
}

static const char *switch_on(void)
{
    uint16_t command = COMMAND_MEMORY_MASTER;
    int enable = open_file("enable", O_WRONLY);
    int config = open_file("config", O_RDWR);
    bool done = enable >= 0 && config >= 0 && write(enable, "1", 1) == 1 &&
                pwrite(config, &command, sizeof(command), COMMAND_OFFSET) ==
                sizeof(command);

    close(enable);
    close(config);
    return done ? NULL : "cannot enable the device";
}

static void *map(const char *name, size_t bytes)
{
    int fd = open_file(name, O_RDWR);
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    close(fd);
    return start == MAP_FAILED ? NULL : start;
}

static const char *take_memory(void)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (fd < 0 || memory == MAP_FAILED || mlock(memory, PAGES * PAGE)) {
        return "no memory for DMAs";
    }
    for (unsigned int i = 0; i < PAGES; i++) {
        uintptr_t page = (uintptr_t)memory / PAGE + i;
        uint64_t entry;

        if (pread(fd, &entry, sizeof(entry), (off_t)(page * sizeof(entry))) !=
            sizeof(entry) || !(entry & PFN_MASK)) {
            return "cannot read physical addresses";
        }
        physical[i] = (entry & PFN_MASK) * PAGE;
    }
    close(fd);
    return NULL;
}

const char *plain_open(void)
{
    const char *error = find();

    if (!error) {
        error = switch_on();
    }
    if (error) {
        return error;
    }
    regs = map("resource0", REGS_BYTES);
    portal = map("resource2", PORTAL_BYTES);
    if (!regs || !portal) {
        return "cannot map the device";
    }
    if (plain_reg(REG_ID) != DEVICE_ID) {
        return "the device is another one";
    }
    plain_enable();
    return take_memory();
}

uint32_t plain_reg(unsigned int offset)
{
    return mmio_read32(&regs[offset / 4]);
}

void plain_enable(void)
{
    mmio_write32(&regs[REG_CTRL / 4], CTRL_RESET);
    mmio_write32(&regs[REG_CTRL / 4], CTRL_ENABLE);
    seq = 0;
}

const char *plain_function_level_reset(void)
{
    static const char kind[] = "flr";
    int method = open_file("reset_method", O_WRONLY);
    int reset = open_file("reset", O_WRONLY);
    bool done = method >= 0 && reset >= 0 &&
                write(method, kind, strlen(kind)) == (ssize_t)strlen(kind) &&
                write(reset, "1", 1) == 1;

    close(method);
    close(reset);
    return done ? NULL : "the kernel has not reset the device";
}

static void submit(void)
{
    volatile uint64_t *slot = portal + (seq % SLOTS) * SLOT_WORDS;
    uint64_t words[SLOT_WORDS];
    struct slot request = {
        .source = physical[SOURCE],
        .destination = physical[DESTINATION],
        .length = PAGE,
        .record = physical[RECORD],
        .opcode = OP_COPY,
        .tag = total,
        .valid = seq + 1,
    };

    request.crc = crc32c(&request, SLOT_CRC_BYTES);
    memcpy(words, &request, sizeof(words));
    for (unsigned int i = 0; i < SLOT_WORDS; i++) {
        /* The last word makes the slot valid; the engine may look at once. */
        if (i == SLOT_WORDS - 1) {
            __asm__ volatile("dsb st" ::: "memory");
        }
        mmio_write64(&slot[i], words[i]);
    }
    seq++;
}

static bool wait_done(unsigned int timeout_ms)
{
    static const struct timespec step = { .tv_nsec = STEP_NS };
    volatile struct record *record = (void *)(memory + RECORD * PAGE);
    struct timespec now, end;

    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += timeout_ms / 1000;
    while (!record->status) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec > end.tv_sec) {
            return false;
        }
        nanosleep(&step, NULL);
    }
    return true;
}

const char *plain_dma(unsigned int timeout_ms)
{
    const struct record *record = (void *)(memory + RECORD * PAGE);
    uint32_t *source = (void *)(memory + SOURCE * PAGE);

    memset(memory + RECORD * PAGE, 0, sizeof(*record));
    memset(memory + DESTINATION * PAGE, 0, PAGE);
    for (unsigned int i = 0; i < PAGE / sizeof(*source); i++) {
        source[i] = total * 2654435761u + i;
    }
    submit();
    if (!wait_done(timeout_ms)) {
        return "a DMA has not ended";
    }
    if (record->status != RECORD_OK || record->tag != total) {
        return "a DMA was aborted, or another one was done";
    }
    if (record->count != 1 || record->order != seq - 1) {
        return "a DMA was done twice, or out of order";
    }
    if (memcmp(source, memory + DESTINATION * PAGE, PAGE)) {
        return "a DMA has copied something else";
    }
    total++;
    return NULL;
}

uint32_t plain_total(void)
{
    return total;
}
