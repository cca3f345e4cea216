# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# QEMU, patched and as it is.

QTESTS=(migration-test qos-test qmp-cmd-test test-hmp device-introspect-test)

# The unpacked source package.
qemu_source()
{
	local key

	key=$(digest_files "$VSVA_PATCHES/SOURCE" "$VSVA_TEST_VM/make/qemu-source")
	cache_make qemu-source "$key" qemu-source
}

qemu_series()
{
	find "$VSVA_PATCHES" -maxdepth 1 -name '[0-9]*.patch' | sort
}

# qemu_path NAME PATCH...: a folder with src/ and build/
qemu_path()
{
	local name=$1 source venv key

	shift
	source=$(qemu_source)
	venv=$(venv_path build)
	key=$({
		echo "$source" "$venv"
		digest_files "$VSVA_TEST_VM/make/qemu" "$@"
		dpkg-query -W gcc libc6-dev libfdt-dev libglib2.0-dev libpixman-1-dev
		# What configure takes from the environment.
		printf '%s\n' "${CC:-}" "${CFLAGS:-}" "${CPPFLAGS:-}" "${LDFLAGS:-}"
	} | digest)
	cache_make "$name" "$key" qemu "$name" "$source" "$venv" "$@"
}

qemu_patched()
{
	local series

	mapfile -t series < <(qemu_series)
	qemu_path qemu "${series[@]}"
}

qemu_unpatched()
{
	qemu_path qemu-base
}

# A folder with the libraries that a QEMU for arm64 hosts is linked with, of this machine's release.
arm64_sysroot()
{
	local key

	key=$({
		digest_files "$VSVA_TEST_VM/make/arm64-sysroot" "$VSVA_TEST_VM/lib/debs.sh"
		sed -n '/^VERSION_CODENAME=/p' /etc/os-release
	} | digest)
	cache_make arm64-sysroot "$key" arm64-sysroot
}

# qemu_arm64 NAME OPTION...: build/qemu-system-aarch64, with the series, for arm64 hosts
qemu_arm64()
{
	local name=$1 qemu venv sysroot key

	shift
	qemu=$(qemu_patched)
	venv=$(venv_path build)
	sysroot=$(arm64_sysroot)
	key=$({
		echo "$qemu" "$venv" "$@"
		digest_files "$VSVA_TEST_VM/make/qemu-arm64" "$sysroot/VERSIONS"
		cross_compiler
	} | digest)
	cache_make "$name" "$key" qemu-arm64 "$name" "$qemu/src" "$venv" "$sysroot" "$@"
}

# The one in the package: hosts without KVM start it, too.
qemu_arm64_deb()
{
	qemu_arm64 qemu-arm64 --enable-kvm --enable-tcg --enable-vhost-net
}
