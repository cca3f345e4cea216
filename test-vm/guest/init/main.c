/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The guest's only process: boots, then obeys the control port. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "boot.h"
#include "check.h"
#include "commands.h"
#include "dirty.h"
#include "load.h"
#include "memory.h"
#include "port.h"
#include "wait.h"

/* The port tells of a peer only when it is asked. */
#define RECONNECT_POLL_MS 5

static int port_fd;

static void say(const struct reply *reply)
{
    port_write(port_fd, reply->text, reply->length);
}

static void announce(void)
{
    static bool announced;
    struct reply reply;

    if (announced) {
        return;
    }
    announced = true;
    reply_begin(&reply);
    reply_string(&reply, "event", "ready");
    reply_end(&reply);
    say(&reply);
}

static void obey(char *line)
{
    struct reply reply;
    struct words words;

    if (wait_active()) {
        wait_cancel(&reply);
        say(&reply);
    }
    if (!words_parse(&words, line)) {
        words.count = 0;
    }
    if (command_run(&words, &reply)) {
        say(&reply);
    }
}

static void read_port(bool *connected)
{
    char line[LINE_MAX_BYTES + 1];
    enum port_input input;

    while ((input = port_read(port_fd, line, sizeof(line))) == PORT_LINE) {
        obey(line);
    }
    *connected = input != PORT_GONE;
    if (*connected) {
        announce();
    }
}

static int poll_timeout(bool connected)
{
    if (!connected) {
        return RECONNECT_POLL_MS;
    }
    return wait_active() ? wait_timeout_ms() : -1;
}

static void serve(int progress_fd)
{
    bool connected = false;

    for (;;) {
        struct pollfd fds[] = {
            { .fd = progress_fd, .events = POLLIN },
            { .fd = connected ? port_fd : -1, .events = POLLIN },
        };
        struct reply reply;
        uint64_t drop;

        poll(fds, 2, poll_timeout(connected));
        if (fds[0].revents) {
            (void)!read(progress_fd, &drop, sizeof(drop));
        }
        if (!connected || fds[1].revents) {
            read_port(&connected);
        }
        if (wait_active() && wait_check(&reply)) {
            say(&reply);
        }
    }
}

static const char *start(int progress_fd)
{
    const char *error = boot();

    if (error) {
        return error;
    }
    if (devices_open(&error)) {
        return error;
    }
    if (memory_init(device_count ? devices[0].fd : -1)) {
        return "cannot map the arenas";
    }
    if (check_start(progress_fd) || load_init() || dirty_init()) {
        return "cannot start the threads";
    }
    return NULL;
}

int main(void)
{
    int progress_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    const char *error = start(progress_fd);

    if (error) {
        printf("vsva-guest: failed: %s: %s\n", error, strerror(errno));
        for (;;) {
            pause();
        }
    }
    port_fd = port_open();
    printf("vsva-guest: ready, %u devices%s\n", device_count,
           port_fd < 0 ? ", no control port" : "");
    if (port_fd < 0) {
        for (;;) {
            pause();
        }
    }
    serve(progress_fd);
}
