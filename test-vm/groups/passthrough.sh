# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# A device passed through to a guest, by a kernel's own VFIO and iommufd: a guest in a guest.

. "$VSVA_TEST_VM/lib/avocado.sh"
. "$VSVA_TEST_VM/lib/passthrough.sh"

needs()
{
	local toolchain kernel

	setup_machine "${PACKAGES_RIG[@]}"
	rig_prefetch
	toolchain=$(rig_toolchain)
	kernel=$(l1_kernel "$toolchain")
	export VSVA_L1_KERNEL=$kernel/kernel
	VSVA_L1_INITRD=$(passthrough_initramfs "$kernel" "$toolchain")
	export VSVA_L1_INITRD
	wait
}

run()
{
	PYTHONPATH=$VSVA_ROOT/tests/avocado avocado_run "$VSVA_ROOT/tests/passthrough"
}
