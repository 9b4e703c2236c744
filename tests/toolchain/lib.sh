# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# What the toolchain scripts share.  Expects $here, their directory.

# shellcheck source=tests/toolchain/versions
. "$here/versions"

TOP=$(CDPATH='' cd -- "$here/../.." && pwd -P)
CACHE=${AZIHSM_CACHE:-$TOP/.cache}

# A root file system is never changed once it is complete: other contents, other
# name.
ROOTFS=$CACHE/rootfs-$(cat "$here/versions" "$here/packages" | sha256sum | cut -c1-12)
KDIR=$CACHE/kdir-$KERNEL
OLD_KDIR=$CACHE/kdir-$OLD_KERNEL

die() {
	printf '%s\n' "${0##*/}: $*" >&2
	exit 1
}
