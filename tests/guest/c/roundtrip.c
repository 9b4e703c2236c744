// SPDX-License-Identifier: GPL-2.0
/*
 * Device info and one HSM command from C, with nothing but the C library and
 * the ABI header.
 *
 * usage: roundtrip NODE
 *
 * Prints what it received and exits with 0 if all of it was as it should be.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/azihsm.h>

/* Request: map { 0: header { 2: operation 1002 (GetApiRev) }, 1: data {} } */
static const unsigned char request[] = {
	0xa2,
	0x18, 0, 0xa1, 0x18, 2, 0x1a, 0x00, 0x00, 0x03, 0xea,
	0x18, 1, 0xa0,
};

/* Response up to the flag that says whether the operation is approved. */
static const unsigned char answer[] = {
	0xa2,
	0x18, 0, 0xa3, 0x18, 2, 0x1a, 0x00, 0x00, 0x03, 0xea,
	0x18, 4, 0x1a, 0x00, 0x00, 0x00, 0x00,
	0x18, 5,
};

/* One revision: map { 1: major, 2: minor }, both 32 bits. */
#define REVISION_LEN	15

static int read_revision(const unsigned char *in, unsigned char key,
			 unsigned int rev[2])
{
	const unsigned char head[] = { 0x18, key, 0xa2, 0x18, 1, 0x1a };
	const unsigned char next[] = { 0x18, 2, 0x1a };

	if (memcmp(in, head, sizeof(head)) || memcmp(in + 10, next, sizeof(next)))
		return -1;
	rev[0] = (unsigned int)in[6] << 24 | in[7] << 16 | in[8] << 8 | in[9];
	rev[1] = (unsigned int)in[13] << 24 | in[14] << 16 | in[15] << 8 | in[16];
	return 0;
}

static int show_info(int fd)
{
	struct azihsm_dev_info info = { .argsz = sizeof(info) };

	if (ioctl(fd, AZIHSM_IOC_DEV_INFO, &info)) {
		perror("AZIHSM_IOC_DEV_INFO");
		return -1;
	}
	printf("pci %s controller %u driver %s firmware %s\n", (char *)info.pci_info,
	       info.id, (char *)info.driver_rev, (char *)info.firmware_rev);
	return info.pci_info[0] && info.driver_rev[0] ? 0 : -1;
}

static int show_revision(int fd)
{
	unsigned char response[AZIHSM_HSM_MAX_LEN];
	struct azihsm_hsm_cmd cmd = {
		.hdr = { .size = sizeof(cmd) },
		.in = {
			.ctxt = 0x0123456789abcdef,
			.opcode = AZIHSM_HSM_OP_MBOR,
			.src = (uintptr_t)request,
			.src_len = sizeof(request),
			.dst = (uintptr_t)response,
			.dst_len = sizeof(response),
			.session = { .flags = AZIHSM_FLOW_NONE },
		},
	};
	const size_t data = sizeof(answer) + 1;
	unsigned int min[2], max[2];

	if (ioctl(fd, AZIHSM_IOC_HSM_CMD, &cmd)) {
		fprintf(stderr, "AZIHSM_IOC_HSM_CMD: %s, extended status %#x\n",
			strerror(errno), cmd.out.ext);
		return -1;
	}
	printf("status %#x bytes %u\n", cmd.out.status, cmd.out.byte_count);
	if (cmd.out.status || cmd.out.ctxt != cmd.in.ctxt ||
	    cmd.out.byte_count != data + 3 + 2 * (REVISION_LEN + 2))
		return -1;
	if (memcmp(response, answer, sizeof(answer)) ||
	    response[data] != 0x18 || response[data + 1] != 1 ||
	    response[data + 2] != 0xa2)
		return -1;
	if (read_revision(response + data + 3, 1, min) ||
	    read_revision(response + data + 3 + REVISION_LEN + 2, 2, max))
		return -1;
	printf("revisions %u.%u to %u.%u\n", min[0], min[1], max[0], max[1]);
	return 0;
}

int main(int argc, char **argv)
{
	int fd, err;

	if (argc != 2) {
		fprintf(stderr, "usage: %s NODE\n", argv[0]);
		return 2;
	}
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		perror(argv[1]);
		return 1;
	}
	err = show_info(fd) || show_revision(fd);
	close(fd);
	puts(err ? "FAILED" : "OK");
	return err;
}
