# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# The guest: its kernel, and the initramfs with the program and the module.

# Debian's release and name of the kernel's source package.
LINUX_SUITE=trixie
LINUX_PACKAGE=linux-source-6.12

# The newest package when it was first fetched; pruning it fetches again.
linux_source()
{
	local key

	key=$(digest_files "$VSVA_TEST_VM/make/linux-source")
	cache_make "$LINUX_PACKAGE" "$key" linux-source "$LINUX_PACKAGE" "$LINUX_SUITE"
}

cross_compiler()
{
	dpkg-query -W gcc-aarch64-linux-gnu libc6-dev-arm64-cross
}

# A folder with Image, gen_init_cpio and devel/, to build modules with.
kernel_path()
{
	local source fragment=$VSVA_TEST_VM/guest/kernel.config key

	source=$(linux_source)
	key=$({
		cat "$source/VERSION"
		digest_files "$VSVA_TEST_VM/make/kernel" "$fragment"
		cross_compiler
	} | digest)
	cache_make kernel "$key" kernel "$source" "$fragment"
}

# guest_path KERNEL: a folder with initramfs
guest_path()
{
	local files key

	mapfile -t files < <(find "$VSVA_TEST_VM/guest" -type f ! -name kernel.config | sort)
	key=$({
		echo "$1"
		digest_files "$VSVA_TEST_VM/make/guest" "${files[@]}"
		cross_compiler
	} | digest)
	cache_make guest "$key" guest "$1"
}
