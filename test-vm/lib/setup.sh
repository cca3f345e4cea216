# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Everything that a VM with the device needs, in an order in which downloads go
# on while something is being built.

setup_packages()
{
	local rust

	mapfile -t rust < <(rust_packages)
	packages_install "${PACKAGES_BUILD[@]}" "${PACKAGES_GUEST[@]}" \
		"${PACKAGES_PYTHON[@]}" "${rust[@]}" "$@"
}

# Fetches in the background what is needed later.
setup_prefetch()
{
	(
		rust_fetch &
		linux_source >/dev/null &
		venv_path test >/dev/null &
		wait
	) &
}

# Sets and exports where the programs under test are.
setup_machine()
{
	local qemu kernel guest backend replay venv

	setup_packages "$@"
	rust_need
	setup_prefetch
	qemu=$(qemu_patched)
	kernel=$(kernel_path)
	guest=$(guest_path "$kernel")
	backend=$(rust_backend)
	replay=$(rust_replay)
	venv=$(venv_path test)
	wait
	export VSVA_QEMU=$qemu/build/qemu-system-aarch64
	export VSVA_KERNEL=$kernel/Image
	export VSVA_INITRD=$guest/initramfs
	export VSVA_BACKEND=$backend
	export VSVA_REPLAY=$replay
	VSVA_VENV=$venv
	# avocado uses something that is going to be removed; the version is pinned.
	export PYTHONWARNINGS='ignore:pkg_resources is deprecated:UserWarning'
}
