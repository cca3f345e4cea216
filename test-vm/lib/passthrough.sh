# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# A host (L1) with KVM in a virtual machine, and its guest (L2) that has a passed-through device.

PASSTHROUGH=$VSVA_TEST_VM/passthrough

# l1_kernel TOOLCHAIN: a folder with kernel and devel
l1_kernel()
{
	local root=$1/root fragments=("$RIG/arm64.config" "$PASSTHROUGH/l1.config") source key

	source=$(rig_source)
	key=$({
		cat "$source/VERSION"
		digest_files "$VSVA_TEST_VM/make/l1-kernel" "${fragments[@]}"
		dpkg-query --admindir="$root/var/lib/dpkg" -W gcc gcc-aarch64-linux-gnu
	} | digest)
	(cache_make l1-kernel "$key" l1-kernel "$source" "$root" "${fragments[@]}") || {
		as_root rm -rf "$root/build/l1-kernel-$key"
		die "another kernel than $(<"$source/VERSION"): VSVA_RIG_LINUX=linux-source-7.2, for example"
	}
}

# passthrough_programs KERNEL TOOLCHAIN: a folder with vsva_vfio_pci.ko and plain
passthrough_programs()
{
	local files key

	mapfile -t files < <(find "$PASSTHROUGH/driver" "$PASSTHROUGH/plain" \
		"$VSVA_TEST_VM/guest/init" -type f | sort)
	key=$({
		echo "$1"
		digest_files "$VSVA_TEST_VM/make/passthrough" "${files[@]}"
		cross_compiler
	} | digest)
	cache_make passthrough "$key" passthrough "$1" "$2/root"
}

# The program that is process 1 of the host, and the back-end, both for arm64: a folder with them
passthrough_arm64()
{
	local toolchain=$1 log=$VSVA_OUT/passthrough-arm64.log package

	: >"$log"
	logged "$log" rig_copy_source "$toolchain/root"
	for package in vhost-user-vsva vsva-l1; do
		watched "passthrough arm64" 1/1 "$log" "cargo build $package" numbered "$(rust_crates)" \
			rig_cargo "$toolchain" build --release --package "$package" --bins ||
			die "$package could not be built for arm64"
	done
	printf '%s\n' "$toolchain/root/$RIG_BUILD/target/$RIG_TARGET/release"
}

# passthrough_initramfs KERNEL TOOLCHAIN: the host's, with all that runs there and its guests
passthrough_initramfs()
{
	local kernel=$1 toolchain=$2 programs qemu arm64 out=$VSVA_OUT/passthrough

	programs=$(passthrough_programs "$kernel" "$toolchain")
	qemu=$(qemu_arm64 inner-qemu --enable-kvm --disable-tcg)
	arm64=$(passthrough_arm64 "$toolchain")
	mkdir -p "$out"
	passthrough_pack "$out/plain-initramfs" "init=$programs/plain"
	passthrough_pack "$out/initramfs" \
		"init=$arm64/vsva-l1" \
		"vhost-user-vsva=$arm64/vhost-user-vsva" \
		"qemu-system-aarch64=$qemu/build/qemu-system-aarch64" \
		"vsva_vfio_pci.ko=$programs/vsva_vfio_pci.ko" \
		"guest/plain-kernel=$kernel/kernel" \
		"guest/plain-initramfs=$out/plain-initramfs" \
		"guest/kernel=$VSVA_KERNEL" \
		"guest/initramfs=$VSVA_INITRD"
	printf '%s\n' "$out/initramfs"
}

# passthrough_pack ARCHIVE NAME=FILE...
passthrough_pack()
{
	PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$RIG/run.d python3 - "$@" <<'PYTHON'
import sys
from pathlib import Path

import initramfs

pairs = (word.split("=", 1) for word in sys.argv[2:])
files = {name: Path(file).read_bytes() for name, file in pairs}
Path(sys.argv[1]).write_bytes(initramfs.build(files))
PYTHON
}
