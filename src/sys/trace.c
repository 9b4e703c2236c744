// SPDX-License-Identifier: GPL-2.0
/*
 * What can be done by macros of C only.
 */

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "trace.h"
