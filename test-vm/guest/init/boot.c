/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "boot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MODULE "/vsva_guest.ko"
#define FAULT_AROUND "/sys/kernel/debug/fault_around_bytes"

static const struct {
    const char *type;
    const char *path;
} filesystems[] = {
    { "proc", "/proc" },
    { "sysfs", "/sys" },
    { "devtmpfs", "/dev" },
    { "tmpfs", "/tmp" },
    { "debugfs", "/sys/kernel/debug" },
};

static const char *load_module(void)
{
    int fd = open(MODULE, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return "cannot open " MODULE;
    }
    if (syscall(SYS_finit_module, fd, "", 0)) {
        return "cannot load " MODULE;
    }
    close(fd);
    return NULL;
}

/* By default one fault of a file's page maps its 15 neighbours as well. */
static const char *fault_single_pages(void)
{
    static const char value[] = "4096";
    int fd = open(FAULT_AROUND, O_WRONLY | O_CLOEXEC);
    ssize_t put;

    if (fd < 0) {
        return "cannot open " FAULT_AROUND;
    }
    put = write(fd, value, strlen(value));
    close(fd);
    return put < 0 ? "cannot write " FAULT_AROUND : NULL;
}

const char *boot(void)
{
    const char *error;

    for (unsigned int i = 0;
         i < sizeof(filesystems) / sizeof(filesystems[0]); i++) {
        mkdir(filesystems[i].path, 0755);
        if (mount(filesystems[i].type, filesystems[i].path,
                  filesystems[i].type, 0, NULL) && errno != EBUSY) {
            return filesystems[i].path;
        }
    }
    error = fault_single_pages();
    return error ? error : load_module();
}
