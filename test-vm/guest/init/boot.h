/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What an init does before anything else. */
#ifndef BOOT_H
#define BOOT_H

/* NULL, or what went wrong. */
const char *boot(void);

#endif
