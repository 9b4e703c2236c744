// SPDX-License-Identifier: GPL-2.0
/*
 * Layout of the user-space ABI, checked by the compiler as C and as C++:
 * building this file is the test.
 */
#include <assert.h>
#include <stddef.h>

#include <linux/azihsm.h>

#define CHECK(condition)	static_assert(condition, #condition)

#define SIZE(type, size)	CHECK(sizeof(type) == (size))
#define OFFSET(type, field, at)	CHECK(offsetof(type, field) == (at))

SIZE(struct azihsm_hdr, 16);
OFFSET(struct azihsm_hdr, size, 0);
OFFSET(struct azihsm_hdr, app_cmd_id, 4);
OFFSET(struct azihsm_hdr, timeout, 8);
OFFSET(struct azihsm_hdr, flags, 12);

SIZE(struct azihsm_session, 20);
OFFSET(struct azihsm_session, flags, 0);
OFFSET(struct azihsm_session, id, 2);

SIZE(struct azihsm_hsm_in, 72);
SIZE(struct azihsm_hsm_out, 24);
SIZE(struct azihsm_hsm_cmd, 112);
OFFSET(struct azihsm_hsm_cmd, in, 16);
OFFSET(struct azihsm_hsm_cmd, in.ctxt, 16);
OFFSET(struct azihsm_hsm_cmd, in.opcode, 24);
OFFSET(struct azihsm_hsm_cmd, in.cmdset, 26);
OFFSET(struct azihsm_hsm_cmd, in.psdt, 28);
OFFSET(struct azihsm_hsm_cmd, in.src_len, 32);
OFFSET(struct azihsm_hsm_cmd, in.src, 40);
OFFSET(struct azihsm_hsm_cmd, in.dst_len, 48);
OFFSET(struct azihsm_hsm_cmd, in.dst, 56);
OFFSET(struct azihsm_hsm_cmd, in.session.flags, 64);
OFFSET(struct azihsm_hsm_cmd, in.session.id, 66);
OFFSET(struct azihsm_hsm_cmd, out, 88);
OFFSET(struct azihsm_hsm_cmd, out.ctxt, 88);
OFFSET(struct azihsm_hsm_cmd, out.status, 96);
OFFSET(struct azihsm_hsm_cmd, out.byte_count, 100);
OFFSET(struct azihsm_hsm_cmd, out.ext, 104);

SIZE(struct azihsm_dev_info, 176);
OFFSET(struct azihsm_dev_info, argsz, 0);
OFFSET(struct azihsm_dev_info, id, 4);
OFFSET(struct azihsm_dev_info, pci_info, 6);
OFFSET(struct azihsm_dev_info, serial, 39);
OFFSET(struct azihsm_dev_info, model, 72);
OFFSET(struct azihsm_dev_info, firmware_rev, 77);
OFFSET(struct azihsm_dev_info, driver_rev, 110);
OFFSET(struct azihsm_dev_info, reserved, 126);
OFFSET(struct azihsm_dev_info, entropy, 143);
OFFSET(struct azihsm_dev_info, pad, 175);

SIZE(struct azihsm_reset, 272);
OFFSET(struct azihsm_reset, ctxt, 16);
OFFSET(struct azihsm_reset, type, 24);
OFFSET(struct azihsm_reset, status, 108);

SIZE(struct azihsm_gcm, 44);
OFFSET(struct azihsm_gcm, key_id, 0);
OFFSET(struct azihsm_gcm, tag, 4);
OFFSET(struct azihsm_gcm, iv, 20);
OFFSET(struct azihsm_gcm, aad_len, 32);
OFFSET(struct azihsm_gcm, aad_padded_len, 36);
OFFSET(struct azihsm_gcm, unaligned, 40);

SIZE(struct azihsm_xts, 28);
OFFSET(struct azihsm_xts, data_unit, 0);
OFFSET(struct azihsm_xts, data_key_id, 4);
OFFSET(struct azihsm_xts, tweak_key_id, 8);
OFFSET(struct azihsm_xts, tweak, 12);

SIZE(struct azihsm_aes_in, 224);
SIZE(struct azihsm_aes_out, 160);
SIZE(struct azihsm_aes_cmd, 400);
OFFSET(struct azihsm_aes_cmd, in, 16);
OFFSET(struct azihsm_aes_cmd, in.ctxt, 16);
OFFSET(struct azihsm_aes_cmd, in.op, 24);
OFFSET(struct azihsm_aes_cmd, in.cipher, 25);
OFFSET(struct azihsm_aes_cmd, in.src, 32);
OFFSET(struct azihsm_aes_cmd, in.src_len, 40);
OFFSET(struct azihsm_aes_cmd, in.dst, 48);
OFFSET(struct azihsm_aes_cmd, in.dst_len, 56);
OFFSET(struct azihsm_aes_cmd, in.frame_type, 64);
OFFSET(struct azihsm_aes_cmd, in.session_id, 66);
OFFSET(struct azihsm_aes_cmd, in.short_app_id, 68);
OFFSET(struct azihsm_aes_cmd, in.gcm, 72);
OFFSET(struct azihsm_aes_cmd, in.xts, 72);
OFFSET(struct azihsm_aes_cmd, in.reserved1, 116);
OFFSET(struct azihsm_aes_cmd, out, 240);
OFFSET(struct azihsm_aes_cmd, out.ctxt, 240);
OFFSET(struct azihsm_aes_cmd, out.result, 248);
OFFSET(struct azihsm_aes_cmd, out.tag, 252);
OFFSET(struct azihsm_aes_cmd, out.byte_count, 268);
OFFSET(struct azihsm_aes_cmd, out.ext, 272);
OFFSET(struct azihsm_aes_cmd, out.fips_approved, 276);
OFFSET(struct azihsm_aes_cmd, out.iv, 280);
OFFSET(struct azihsm_aes_cmd, out.reserved1, 292);

SIZE(struct azihsm_res_count, 12);
OFFSET(struct azihsm_res_count, argsz, 0);
OFFSET(struct azihsm_res_count, vf, 4);
OFFSET(struct azihsm_res_count, count, 6);
OFFSET(struct azihsm_res_count, status, 8);

SIZE(struct azihsm_vf_count, 8);
OFFSET(struct azihsm_vf_count, argsz, 0);
OFFSET(struct azihsm_vf_count, count, 4);

CHECK(AZIHSM_IOC_HSM_CMD == 0xC0704203);
CHECK(AZIHSM_IOC_DEV_INFO == 0xC0B04204);
CHECK(AZIHSM_IOC_RESET == 0xC1104206);
CHECK(AZIHSM_IOC_AES_XTS == 0xC190420B);
CHECK(AZIHSM_IOC_AES_GCM == 0xC190420C);
CHECK(AZIHSM_MGMT_IOC_SET_RES_COUNT == 0xC00C4102);
CHECK(AZIHSM_MGMT_IOC_GET_RES_COUNT == 0xC00C4103);
CHECK(AZIHSM_MGMT_IOC_GET_VF_COUNT == 0xC0084104);
CHECK(AZIHSM_MGMT_IOC_DEV_INFO == 0xC0B04105);
