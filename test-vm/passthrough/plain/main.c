/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The only process of a guest (L2) that has the test device but no IOMMU: its
 * DMAs go to physical addresses. It obeys the control port as the guest program
 * of the other tests does, with fewer commands.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../guest/init/port.h"
#include "../../guest/init/reply.h"
#include "../../guest/init/words.h"
#include "plain.h"

#define DMA_TIMEOUT_MS 30000

static const struct {
    const char *type;
    const char *path;
} filesystems[] = {
    { "proc", "/proc" },
    { "sysfs", "/sys" },
    { "devtmpfs", "/dev" },
};

static const char *boot(void)
{
    for (unsigned int i = 0;
         i < sizeof(filesystems) / sizeof(filesystems[0]); i++) {
        mkdir(filesystems[i].path, 0755);
        if (mount(filesystems[i].type, filesystems[i].path,
                  filesystems[i].type, 0, NULL) && errno != EBUSY) {
            return filesystems[i].path;
        }
    }
    return NULL;
}

static void reply_registers(struct reply *reply)
{
    reply_open(reply, "device", '{');
    reply_number(reply, "id", plain_reg(REG_ID));
    reply_number(reply, "version", plain_reg(REG_VERSION));
    reply_number(reply, "slots", plain_reg(REG_SLOTS));
    reply_number(reply, "ctrl", plain_reg(REG_CTRL));
    reply_number(reply, "next", plain_reg(REG_NEXT));
    reply_number(reply, "inflight", plain_reg(REG_INFLIGHT));
    reply_number(reply, "started", plain_reg(REG_STARTED));
    reply_number(reply, "completed", plain_reg(REG_COMPLETED));
    reply_number(reply, "aborted", plain_reg(REG_ABORTED));
    reply_number(reply, "bad_desc", plain_reg(REG_BAD_DESC));
    reply_close(reply, '}');
}

/* "dma N": N copies, one after the other, each compared. */
static const char *command_dma(const struct words *words, struct reply *reply)
{
    uint32_t count, done = 0;
    const char *error = NULL;

    if (words->count < 2 || !parse_number(words->word[1], &count)) {
        return "the number of DMAs is missing";
    }
    while (done < count && !(error = plain_dma(DMA_TIMEOUT_MS))) {
        done++;
    }
    if (error) {
        return error;
    }
    reply_bool(reply, "ok", true);
    reply_number(reply, "done", done);
    reply_number(reply, "total", plain_total());
    return NULL;
}

static const char *dispatch(const struct words *words, struct reply *reply)
{
    const char *name = words->count ? words->word[0] : "", *error = NULL;

    if (strcmp(name, "dma") == 0) {
        return command_dma(words, reply);
    }
    if (strcmp(name, "poweroff") == 0) {
        reboot(RB_POWER_OFF);
        return "poweroff";
    }
    if (strcmp(name, "reset") == 0) {
        error = plain_function_level_reset();
    } else if (strcmp(name, "enable") == 0) {
        plain_enable();
    } else if (strcmp(name, "status") != 0) {
        error = "there is no such command";
    }
    if (!error) {
        reply_bool(reply, "ok", true);
        reply_registers(reply);
    }
    return error;
}

static void obey(int fd, char *line)
{
    struct words words;
    struct reply reply;
    const char *error;

    if (!words_parse(&words, line)) {
        words.count = 0;
    }
    reply_begin(&reply);
    error = dispatch(&words, &reply);
    if (error) {
        reply_bool(&reply, "ok", false);
        reply_string(&reply, "error", error);
    }
    if (words.id) {
        reply_string(&reply, "id", words.id);
    }
    reply_end(&reply);
    port_write(fd, reply.text, reply.length);
}

static void announce(int fd)
{
    struct reply reply;

    reply_begin(&reply);
    reply_string(&reply, "event", "ready");
    reply_end(&reply);
    port_write(fd, reply.text, reply.length);
}

static void serve(int fd)
{
    char line[LINE_MAX_BYTES + 1];

    for (;;) {
        struct pollfd ready = { .fd = fd, .events = POLLIN };

        poll(&ready, 1, -1);
        while (port_read(fd, line, sizeof(line)) == PORT_LINE) {
            obey(fd, line);
        }
    }
}

int main(void)
{
    const char *error = boot();
    int fd = -1;

    if (!error) {
        error = plain_open();
    }
    if (!error) {
        fd = port_open();
        error = fd < 0 ? "no control port" : NULL;
    }
    if (error) {
        printf("vsva-guest: failed: %s: %s\n", error, strerror(errno));
        for (;;) {
            pause();
        }
    }
    printf("vsva-guest: ready\n");
    announce(fd);
    serve(fd);
}
