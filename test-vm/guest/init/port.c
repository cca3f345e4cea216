/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "port.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PORTS "/sys/class/virtio-ports"
#define WAIT_STEP_MS 5
#define WAIT_STEPS 1000
#define WRITE_STEPS 200

static char input[LINE_MAX_BYTES];
static size_t input_length;
static bool skipping;

static bool has_name(const char *entry)
{
    char path[300], text[64] = "";
    FILE *file;
    bool same;

    snprintf(path, sizeof(path), PORTS "/%s/name", entry);
    file = fopen(path, "re");
    if (!file) {
        return false;
    }
    same = fgets(text, sizeof(text), file) &&
           strcmp(text, PORT_NAME "\n") == 0;
    fclose(file);
    return same;
}

static int find_port(void)
{
    DIR *ports = opendir(PORTS);
    struct dirent *entry;
    int fd = -1;

    while (ports && fd < 0 && (entry = readdir(ports))) {
        char path[300];

        if (has_name(entry->d_name)) {
            snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
            fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        }
    }
    if (ports) {
        closedir(ports);
    }
    return fd;
}

/* The port's name arrives by a message from the host, after the boot. */
int port_open(void)
{
    static const struct timespec step = { .tv_nsec = WAIT_STEP_MS * 1000000 };

    for (unsigned int i = 0; i < WAIT_STEPS; i++) {
        int fd = find_port();

        if (fd >= 0) {
            return fd;
        }
        nanosleep(&step, NULL);
    }
    return -1;
}

static bool next_line(char *line, size_t size)
{
    char *end = memchr(input, '\n', input_length);
    size_t length;
    bool whole;

    if (!end) {
        if (input_length == sizeof(input)) {
            input_length = 0;
            skipping = true;
        }
        return false;
    }
    length = (size_t)(end - input);
    whole = !skipping && length < size;
    if (whole) {
        memcpy(line, input, length);
        line[length] = '\0';
    } else {
        snprintf(line, size, "(a line that is too long)");
    }
    skipping = false;
    input_length -= length + 1;
    memmove(input, end + 1, input_length);
    return true;
}

enum port_input port_read(int fd, char *line, size_t size)
{
    ssize_t got;

    if (next_line(line, size)) {
        return PORT_LINE;
    }
    got = read(fd, input + input_length, sizeof(input) - input_length);
    if (got == 0) {
        input_length = 0;
        skipping = false;
        return PORT_GONE;
    }
    if (got < 0) {
        return errno == EAGAIN || errno == EINTR ? PORT_NOTHING : PORT_GONE;
    }
    input_length += (size_t)got;
    return next_line(line, size) ? PORT_LINE : PORT_NOTHING;
}

/* Readiness alone will not do: a peer that has just come may look gone. */
static bool wait_writable(int fd)
{
    static const struct timespec step = { .tv_nsec = WAIT_STEP_MS * 1000000 };

    for (unsigned int i = 0; i < WRITE_STEPS; i++) {
        struct pollfd ready = { .fd = fd, .events = POLLOUT };

        poll(&ready, 1, WAIT_STEP_MS);
        if (ready.revents & POLLOUT) {
            return true;
        }
        nanosleep(&step, NULL);
    }
    return false;
}

void port_write(int fd, const char *text, size_t length)
{
    while (length) {
        ssize_t put = write(fd, text, length);

        if (put > 0) {
            text += put;
            length -= (size_t)put;
        } else if (put == 0 || (errno != EAGAIN && errno != EINTR) ||
                   !wait_writable(fd)) {
            return;
        }
    }
}
