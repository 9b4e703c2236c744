/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * User-space ABI of the Azure Integrated HSM driver.
 *
 * The contract, field by field, is in Documentation/abi.rst.  Every structure
 * has the same layout for 32-bit and 64-bit callers, little endian, with all
 * padding spelled out.
 */
#ifndef _UAPI_LINUX_AZIHSM_H
#define _UAPI_LINUX_AZIHSM_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Ioctl types of the HSM node and of the management node. */
#define AZIHSM_IOC_MAGIC		'B'
#define AZIHSM_MGMT_IOC_MAGIC		'A'

/**
 * struct azihsm_hdr - what the HSM, AES and reset structures begin with
 * @size: Size of the whole structure in bytes, as the caller knows it.
 * @app_cmd_id: The caller's tag; neither read nor changed.
 * @timeout: Ignored.
 * @flags: Ignored.
 */
struct azihsm_hdr {
	__u32 size;
	__u32 app_cmd_id;
	__u32 timeout;
	__u32 flags;
};

/* Session flow, bits 1:0 of struct azihsm_session.flags. */
#define AZIHSM_FLOW_NONE		0
#define AZIHSM_FLOW_OPEN		1
#define AZIHSM_FLOW_CLOSE		2
#define AZIHSM_FLOW_IN_SESSION		3
#define AZIHSM_FLOW_MASK		0x3
/* struct azihsm_session.id holds a session identifier. */
#define AZIHSM_SESSION_ID_VALID		(1 << 2)

/**
 * struct azihsm_session - the session a HSM command belongs to
 * @flags: One of AZIHSM_FLOW_*, with AZIHSM_SESSION_ID_VALID where it applies.
 * @reserved0: Ignored.
 * @id: Session identifier.
 * @reserved1: Ignored.
 */
struct azihsm_session {
	__u8 flags;
	__u8 reserved0;
	__u16 id;
	__u8 reserved1[16];
};

/* Opcodes that struct azihsm_hsm_in.opcode may hold. */
#define AZIHSM_HSM_OP_MBOR		0
#define AZIHSM_HSM_OP_TBOR		2

/* Most bytes that one HSM request, and one HSM response, may have. */
#define AZIHSM_HSM_MAX_LEN		8192

/**
 * struct azihsm_hsm_in - request of AZIHSM_IOC_HSM_CMD
 * @ctxt: The caller's, returned in &struct azihsm_hsm_out.ctxt.
 * @opcode: AZIHSM_HSM_OP_*.
 * @cmdset: Must be 0.
 * @psdt: Ignored.
 * @pad0: Padding.
 * @src_len: Bytes of the request, at most AZIHSM_HSM_MAX_LEN.
 * @pad1: Padding.
 * @src: Address of the request; 0 if and only if @src_len is 0.
 * @dst_len: Room for the response in bytes, at most AZIHSM_HSM_MAX_LEN.
 * @pad2: Padding.
 * @dst: Address of the response; 0 if and only if @dst_len is 0.
 * @session: Session of the command.
 * @pad3: Padding.
 */
struct azihsm_hsm_in {
	__u64 ctxt;
	__u16 opcode;
	__u16 cmdset;
	__u8 psdt;
	__u8 pad0[3];
	__u32 src_len;
	__u32 pad1;
	__aligned_u64 src;
	__u32 dst_len;
	__u32 pad2;
	__aligned_u64 dst;
	struct azihsm_session session;
	__u32 pad3;
};

/**
 * struct azihsm_hsm_out - result of AZIHSM_IOC_HSM_CMD
 * @ctxt: The request's @ctxt.
 * @status: Status of the device; 0 if it carried the command out.
 * @byte_count: Bytes of the response at the request's @dst.
 * @ext: AZIHSM_EXT_*, says why the ioctl failed; 0 if it did not.
 * @pad: Padding.
 */
struct azihsm_hsm_out {
	__u64 ctxt;
	__u32 status;
	__u32 byte_count;
	__u32 ext;
	__u32 pad;
};

/**
 * struct azihsm_hsm_cmd - argument of AZIHSM_IOC_HSM_CMD
 * @hdr: Header; its size is that of this structure, or more.
 * @in: Request.
 * @out: Result.
 */
struct azihsm_hsm_cmd {
	struct azihsm_hdr hdr;
	struct azihsm_hsm_in in;
	struct azihsm_hsm_out out;
};

/**
 * struct azihsm_dev_info - argument of AZIHSM_IOC_DEV_INFO
 * @argsz: Size of this structure, or more.
 * @id: Identifier of the controller: 0 is the physical function, n + 1 the
 *	virtual function n.
 * @pci_info: PCI address, "DDDD:BB:DD.F".
 * @serial: Serial number.
 * @model: Empty.
 * @firmware_rev: Firmware revision.
 * @driver_rev: Revision of the ABI that the driver offers.
 * @reserved: 0.
 * @entropy: Random, and new each time the controller was initialised.
 * @pad: Padding; neither read nor written.
 *
 * The strings are UTF-8 and end with at least one NUL.
 */
struct azihsm_dev_info {
	__u32 argsz;
	__u16 id;
	__u8 pci_info[33];
	__u8 serial[33];
	__u8 model[5];
	__u8 firmware_rev[33];
	__u8 driver_rev[16];
	__u8 reserved[17];
	__u8 entropy[32];
	__u8 pad;
};

/* struct azihsm_reset.type */
#define AZIHSM_RESET_SUBSYSTEM		1
#define AZIHSM_RESET_CONTROLLER		2

/* struct azihsm_reset.status */
#define AZIHSM_RESET_OK			0
#define AZIHSM_RESET_BUSY		1
#define AZIHSM_RESET_BAD_STATE		2
#define AZIHSM_RESET_FAILED		3
#define AZIHSM_RESET_BAD_TYPE		4
#define AZIHSM_RESET_TIMED_OUT		5
#define AZIHSM_RESET_UNSUPPORTED	6

/**
 * struct azihsm_reset - argument of AZIHSM_IOC_RESET
 * @hdr: Header; its size is that of this structure, or more.
 * @ctxt: The caller's; neither read nor changed.
 * @type: AZIHSM_RESET_SUBSYSTEM or AZIHSM_RESET_CONTROLLER.
 * @reserved0: Ignored.
 * @status: One of AZIHSM_RESET_OK to AZIHSM_RESET_UNSUPPORTED.
 * @reserved1: Ignored.
 */
struct azihsm_reset {
	struct azihsm_hdr hdr;
	__u64 ctxt;
	__u32 type;
	__u8 reserved0[80];
	__u32 status;
	__u8 reserved1[160];
};

/* struct azihsm_aes_in.op */
#define AZIHSM_AES_ENCRYPT		0
#define AZIHSM_AES_DECRYPT		1

/* struct azihsm_aes_in.cipher */
#define AZIHSM_AES_GCM			0
#define AZIHSM_AES_XTS			1

/* struct azihsm_aes_in.frame_type */
#define AZIHSM_AES_FRAME		1

/* struct azihsm_xts.data_unit */
#define AZIHSM_XTS_UNIT_WHOLE		0
#define AZIHSM_XTS_UNIT_512		1
#define AZIHSM_XTS_UNIT_4096		2
#define AZIHSM_XTS_UNIT_8192		3

/* Most bytes that one AES request may have in either direction. */
#define AZIHSM_AES_MAX_LEN		(16 << 20)

/**
 * struct azihsm_gcm - parameters of AZIHSM_IOC_AES_GCM
 * @key_id: Key.
 * @tag: Tag to check, for decryption.
 * @iv: Initialisation vector.
 * @aad_len: Bytes of additional data without padding.
 * @aad_padded_len: Bytes of additional data with padding, a multiple of 32.
 * @unaligned: Not 0 allows text that is not a multiple of 16 bytes.
 * @reserved: Ignored.
 */
struct azihsm_gcm {
	__u32 key_id;
	__u8 tag[16];
	__u8 iv[12];
	__u32 aad_len;
	__u32 aad_padded_len;
	__u8 unaligned;
	__u8 reserved[3];
};

/**
 * struct azihsm_xts - parameters of AZIHSM_IOC_AES_XTS
 * @data_unit: AZIHSM_XTS_UNIT_*.
 * @reserved: Ignored.
 * @data_key_id: Key for the data.
 * @tweak_key_id: Key for the tweak.
 * @tweak: Tweak of the first data unit, little endian.
 */
struct azihsm_xts {
	__u16 data_unit;
	__u16 reserved;
	__u32 data_key_id;
	__u32 tweak_key_id;
	__u8 tweak[16];
};

/**
 * struct azihsm_aes_in - request of AZIHSM_IOC_AES_GCM and AZIHSM_IOC_AES_XTS
 * @ctxt: The caller's, returned in &struct azihsm_aes_out.ctxt.
 * @op: AZIHSM_AES_ENCRYPT or AZIHSM_AES_DECRYPT.
 * @cipher: AZIHSM_AES_GCM or AZIHSM_AES_XTS, as the ioctl says.
 * @reserved0: Ignored.
 * @pad0: Padding.
 * @src: Address of the input.
 * @src_len: Bytes of the input.
 * @pad1: Padding.
 * @dst: Address of the output.
 * @dst_len: Room for the output in bytes.
 * @pad2: Padding.
 * @frame_type: AZIHSM_AES_FRAME.
 * @pad3: Padding.
 * @session_id: Session of this descriptor.
 * @short_app_id: Application of that session.
 * @pad4: Padding.
 * @gcm: Parameters, if @cipher is AZIHSM_AES_GCM.
 * @xts: Parameters, if @cipher is AZIHSM_AES_XTS.
 * @reserved1: Ignored.
 * @pad5: Padding.
 */
struct azihsm_aes_in {
	__u64 ctxt;
	__u8 op;
	__u8 cipher;
	__u16 reserved0;
	__u32 pad0;
	__aligned_u64 src;
	__u32 src_len;
	__u32 pad1;
	__aligned_u64 dst;
	__u32 dst_len;
	__u32 pad2;
	__u8 frame_type;
	__u8 pad3;
	__u16 session_id;
	__u8 short_app_id;
	__u8 pad4[3];
	union {
		struct azihsm_gcm gcm;
		struct azihsm_xts xts;
	};
	__u32 reserved1[30];
	__u32 pad5;
};

/**
 * struct azihsm_aes_out - result of AZIHSM_IOC_AES_GCM and AZIHSM_IOC_AES_XTS
 * @ctxt: The request's @ctxt.
 * @result: Status of the device; 0 if it carried the command out.
 * @tag: Tag, after a GCM encryption.
 * @byte_count: Bytes written to the request's @dst.
 * @ext: Error code of the device if @result is not 0, else AZIHSM_EXT_*.
 * @fips_approved: Not 0 if the device calls the operation approved.
 * @reserved0: 0.
 * @iv: Initialisation vector used, after a GCM encryption.
 * @reserved1: 0.
 * @pad: Padding.
 */
struct azihsm_aes_out {
	__u64 ctxt;
	__u32 result;
	__u8 tag[16];
	__u32 byte_count;
	__u32 ext;
	__u8 fips_approved;
	__u8 reserved0[3];
	__u8 iv[12];
	__u32 reserved1[26];
	__u32 pad;
};

/**
 * struct azihsm_aes_cmd - argument of AZIHSM_IOC_AES_GCM and AZIHSM_IOC_AES_XTS
 * @hdr: Header; its size is that of this structure, or more.
 * @in: Request.
 * @out: Result.
 */
struct azihsm_aes_cmd {
	struct azihsm_hdr hdr;
	struct azihsm_aes_in in;
	struct azihsm_aes_out out;
};

/* struct azihsm_res_count.status */
#define AZIHSM_RES_OK			0
#define AZIHSM_RES_NOT_PF		1
#define AZIHSM_RES_BAD_VF		2
#define AZIHSM_RES_ALREADY_SET		3
#define AZIHSM_RES_SET_FAILED		4
#define AZIHSM_RES_NOT_SET		5
#define AZIHSM_RES_BAD_SIZE		6
#define AZIHSM_RES_GET_FAILED		7

/**
 * struct azihsm_res_count - argument of AZIHSM_MGMT_IOC_SET_RES_COUNT and
 *			     AZIHSM_MGMT_IOC_GET_RES_COUNT
 * @argsz: Size of this structure, or more.
 * @vf: Virtual function, from 0.
 * @count: Resource groups.
 * @status: AZIHSM_RES_*.
 */
struct azihsm_res_count {
	__u32 argsz;
	__u16 vf;
	__u16 count;
	__u32 status;
};

/**
 * struct azihsm_vf_count - argument of AZIHSM_MGMT_IOC_GET_VF_COUNT
 * @argsz: Size of this structure, or more.
 * @count: Virtual functions that are enabled.
 * @pad: Padding; neither read nor written.
 */
struct azihsm_vf_count {
	__u32 argsz;
	__u16 count;
	__u16 pad;
};

/*
 * Extended status of a failed AZIHSM_IOC_HSM_CMD.
 */
#define AZIHSM_EXT_OK			0
#define AZIHSM_EXT_HSM_NOMEM		1
#define AZIHSM_EXT_HSM_CMDSET		2
#define AZIHSM_EXT_HSM_SRC_LEN		3
#define AZIHSM_EXT_HSM_DST_LEN		4
#define AZIHSM_EXT_HSM_SRC		5
#define AZIHSM_EXT_HSM_SRC_ACCESS	6
#define AZIHSM_EXT_HSM_DST		7
#define AZIHSM_EXT_HSM_DST_ACCESS	8
#define AZIHSM_EXT_HSM_NOT_OWNER	9
#define AZIHSM_EXT_HSM_NOT_READY	10
#define AZIHSM_EXT_HSM_SESSION_LIMIT	11
#define AZIHSM_EXT_HSM_NO_SESSION	12
#define AZIHSM_EXT_HSM_FLOW		13
#define AZIHSM_EXT_HSM_SESSION_MISMATCH	14
#define AZIHSM_EXT_HSM_RETRY		15

/*
 * Extended status of a failed AZIHSM_IOC_AES_GCM or AZIHSM_IOC_AES_XTS.
 */
#define AZIHSM_EXT_AES_NOMEM		100
#define AZIHSM_EXT_AES_SRC		101
#define AZIHSM_EXT_AES_SRC_ACCESS	102
#define AZIHSM_EXT_AES_DST		103
#define AZIHSM_EXT_AES_DST_ACCESS	104
#define AZIHSM_EXT_AES_NOT_OWNER	105
#define AZIHSM_EXT_AES_DEVICE		106
#define AZIHSM_EXT_AES_SESSION_MISMATCH	107
#define AZIHSM_EXT_AES_APP_MISMATCH	108
#define AZIHSM_EXT_AES_NO_SESSION	109
#define AZIHSM_EXT_AES_NO_APP		110
#define AZIHSM_EXT_AES_NO_QUEUES	111
#define AZIHSM_EXT_AES_CIPHER		112
#define AZIHSM_EXT_AES_FRAME_TYPE	113
#define AZIHSM_EXT_AES_OP		114
#define AZIHSM_EXT_AES_SRC_LEN		115
#define AZIHSM_EXT_AES_DST_LEN		116
#define AZIHSM_EXT_AES_GCM		117
#define AZIHSM_EXT_AES_XTS		118

/*
 * Extended status of either, from recovery: a recovery is under way, or it
 * ended the command.  The request may be sent again.
 */
#define AZIHSM_EXT_RECOVERING		0x04000001
#define AZIHSM_EXT_ABORTED		0x04000002

/* The HSM node, /dev/azihsm<N>. */
#define AZIHSM_IOC_HSM_CMD	_IOWR(AZIHSM_IOC_MAGIC, 0x03, struct azihsm_hsm_cmd)
#define AZIHSM_IOC_DEV_INFO	_IOWR(AZIHSM_IOC_MAGIC, 0x04, struct azihsm_dev_info)
#define AZIHSM_IOC_RESET	_IOWR(AZIHSM_IOC_MAGIC, 0x06, struct azihsm_reset)
#define AZIHSM_IOC_AES_XTS	_IOWR(AZIHSM_IOC_MAGIC, 0x0b, struct azihsm_aes_cmd)
#define AZIHSM_IOC_AES_GCM	_IOWR(AZIHSM_IOC_MAGIC, 0x0c, struct azihsm_aes_cmd)

/* The management node, /dev/azihsm-mgmt<N>. */
#define AZIHSM_MGMT_IOC_SET_RES_COUNT	\
	_IOWR(AZIHSM_MGMT_IOC_MAGIC, 0x02, struct azihsm_res_count)
#define AZIHSM_MGMT_IOC_GET_RES_COUNT	\
	_IOWR(AZIHSM_MGMT_IOC_MAGIC, 0x03, struct azihsm_res_count)
#define AZIHSM_MGMT_IOC_GET_VF_COUNT	\
	_IOWR(AZIHSM_MGMT_IOC_MAGIC, 0x04, struct azihsm_vf_count)
#define AZIHSM_MGMT_IOC_DEV_INFO	\
	_IOWR(AZIHSM_MGMT_IOC_MAGIC, 0x05, struct azihsm_dev_info)

#endif /* _UAPI_LINUX_AZIHSM_H */
