/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The control port: lines in, lines out. */
#ifndef PORT_H
#define PORT_H

#include <stdbool.h>
#include <stddef.h>

#define PORT_NAME "org.vsva.ctl"
#define LINE_MAX_BYTES 512

enum port_input {
    PORT_NOTHING,
    PORT_LINE,
    PORT_GONE,          /* nobody is at the other end */
};

/* The file descriptor, or -1: the machine has no such port. */
int port_open(void);

/* Takes what has come; a line without its newline stays until the rest comes. */
enum port_input port_read(int fd, char *line, size_t size);

/* Dropped when the other end does not take it within a second or two. */
void port_write(int fd, const char *text, size_t length);

#endif
