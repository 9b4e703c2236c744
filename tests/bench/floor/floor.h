/* SPDX-License-Identifier: GPL-2.0 */
#ifndef FLOOR_H
#define FLOOR_H

#include <linux/ioctl.h>

/* Bytes of a request, and as many of its response. */
#define FLOOR_BYTES	64

/* Does nothing. */
#define FLOOR_NULL	_IO('F', 0)
/* Sends the bytes that the argument points to, and replaces them. */
#define FLOOR_WAKE	_IO('F', 1)

#endif
