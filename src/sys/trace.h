/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints of the Azure Integrated HSM.
 *
 * Documentation/abi.rst 5.4. None tells what a command or its answer holds.
 */

#undef TRACE_SYSTEM
#define TRACE_SYSTEM azihsm

#if !defined(_AZIHSM_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _AZIHSM_TRACE_H

#include <linux/device.h>
#include <linux/tracepoint.h>

/* As src/recovery.rs numbers them. */
#define azihsm_cause_names			\
	{ 0, "requested" },			\
	{ 1, "fault" },				\
	{ 2, "not_ready" },			\
	{ 3, "unresponsive" },			\
	{ 4, "retried" },			\
	{ 5, "returned" },			\
	{ 6, "resumed" }

DECLARE_EVENT_CLASS(azihsm_command,
	TP_PROTO(const struct device *dev, u16 queue, u16 cid),
	TP_ARGS(dev, queue, cid),
	TP_STRUCT__entry(
		__string(dev, dev_name(dev))
		__field(u16, queue)
		__field(u16, cid)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->queue = queue;
		__entry->cid = cid;
	),
	TP_printk("%s queue=%u cid=%#x", __get_str(dev), __entry->queue, __entry->cid)
);

/* The device is about to be told of it. */
DEFINE_EVENT(azihsm_command, azihsm_submit,
	TP_PROTO(const struct device *dev, u16 queue, u16 cid),
	TP_ARGS(dev, queue, cid)
);

/* It has ended without a completion, as its queue was aborted or the device reset. */
DEFINE_EVENT(azihsm_command, azihsm_cancel,
	TP_PROTO(const struct device *dev, u16 queue, u16 cid),
	TP_ARGS(dev, queue, cid)
);

TRACE_EVENT(azihsm_complete,
	TP_PROTO(const struct device *dev, u16 queue, u16 cid, u16 status, u64 ns),
	TP_ARGS(dev, queue, cid, status, ns),
	TP_STRUCT__entry(
		__string(dev, dev_name(dev))
		__field(u64, ns)
		__field(u16, queue)
		__field(u16, cid)
		__field(u16, status)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->ns = ns;
		__entry->queue = queue;
		__entry->cid = cid;
		__entry->status = status;
	),
	TP_printk("%s queue=%u cid=%#x status=%#x ns=%llu", __get_str(dev), __entry->queue,
		  __entry->cid, __entry->status, __entry->ns)
);

/* So many commands of the queue are overdue, and something is about to be done about it. */
TRACE_EVENT(azihsm_timeout,
	TP_PROTO(const struct device *dev, u16 queue, u32 commands),
	TP_ARGS(dev, queue, commands),
	TP_STRUCT__entry(
		__string(dev, dev_name(dev))
		__field(u32, commands)
		__field(u16, queue)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->commands = commands;
		__entry->queue = queue;
	),
	TP_printk("%s queue=%u commands=%u", __get_str(dev), __entry->queue, __entry->commands)
);

TRACE_EVENT(azihsm_abort,
	TP_PROTO(const struct device *dev, u16 queue),
	TP_ARGS(dev, queue),
	TP_STRUCT__entry(
		__string(dev, dev_name(dev))
		__field(u16, queue)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->queue = queue;
	),
	TP_printk("%s queue=%u", __get_str(dev), __entry->queue)
);

/* It begins. */
TRACE_EVENT(azihsm_reset,
	TP_PROTO(const struct device *dev, u32 cause),
	TP_ARGS(dev, cause),
	TP_STRUCT__entry(
		__string(dev, dev_name(dev))
		__field(u32, cause)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->cause = cause;
	),
	TP_printk("%s cause=%s", __get_str(dev),
		  __print_symbolic(__entry->cause, azihsm_cause_names))
);

TRACE_EVENT(azihsm_reset_done,
	TP_PROTO(const struct device *dev, u32 cause, bool done, u64 ms),
	TP_ARGS(dev, cause, done, ms),
	TP_STRUCT__entry(
		__string(dev, dev_name(dev))
		__field(u64, ms)
		__field(u32, cause)
		__field(bool, done)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->ms = ms;
		__entry->cause = cause;
		__entry->done = done;
	),
	TP_printk("%s cause=%s %s ms=%llu", __get_str(dev),
		  __print_symbolic(__entry->cause, azihsm_cause_names),
		  __entry->done ? "done" : "failed", __entry->ms)
);

DECLARE_EVENT_CLASS(azihsm_session,
	TP_PROTO(const struct device *dev, u16 session),
	TP_ARGS(dev, session),
	TP_STRUCT__entry(
		__string(dev, dev_name(dev))
		__field(u16, session)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->session = session;
	),
	TP_printk("%s session=%u", __get_str(dev), __entry->session)
);

/* The device says so. */
DEFINE_EVENT(azihsm_session, azihsm_session_open,
	TP_PROTO(const struct device *dev, u16 session),
	TP_ARGS(dev, session)
);

/* The device says so, whoever wanted it. */
DEFINE_EVENT(azihsm_session, azihsm_session_close,
	TP_PROTO(const struct device *dev, u16 session),
	TP_ARGS(dev, session)
);

#endif /* _AZIHSM_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
