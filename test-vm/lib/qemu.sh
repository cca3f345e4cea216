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
