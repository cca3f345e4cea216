# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# The Debian packages: built, looked at by lintian, installed, upgraded, removed and purged on
# Debian 13 and 12.

. "$VSVA_TEST_VM/groups/libvirt.sh"

# package_root SUITE: the Debian in which they are installed
package_root()
{
	local from

	LIBVIRT_SUITE=$1
	from=$(libvirt_root)
	cache_make "package-root-$1" "$({
		echo "$from"
		digest_files "$VSVA_TEST_VM/make/package-root"
	} | digest)" package-root "$from/root" "$1"
}

needs()
{
	local VERSION_CODENAME=''

	# shellcheck source=/dev/null
	. /etc/os-release
	LIBVIRT_HINDRANCE=$(libvirt_hindrance)
	setup_machine "${PACKAGES_DEB[@]}" "${PACKAGES_LINTIAN[@]}" "${PACKAGES_LIBVIRT[@]}"
	[ -z "$LIBVIRT_HINDRANCE" ] || return 0
	VSVA_LIBVIRT_ROOT=$(package_root trixie)/root
	export VSVA_LIBVIRT_ROOT VSVA_PACKAGE_ROOT_TRIXIE=$VSVA_LIBVIRT_ROOT
	if [ "$VERSION_CODENAME" = bookworm ]; then
		VSVA_PACKAGE_ROOT_BOOKWORM=$(package_root bookworm-backports)/root
		export VSVA_PACKAGE_ROOT_BOOKWORM
	else
		export VSVA_PACKAGE_HINDRANCE="what is built on $VERSION_CODENAME is not for Debian 12"
	fi
	if [ "$(uname -m)" = x86_64 ]; then
		VSVA_QEMU_AARCH64=$(rig_emulators)/qemu-aarch64
		export VSVA_QEMU_AARCH64
	fi
}

# packages_build: what the tests are about, in VSVA_PACKAGES and VSVA_PACKAGES_ARM64
packages_build()
{
	deploy/build-deb >"$VSVA_OUT/packages.names" || return
	qemu-patches/build --deb >>"$VSVA_OUT/packages.names" || return
	[ "$(uname -m)" != x86_64 ] || packages_build_arm64 >"$VSVA_OUT/packages.arm64"
}

# To build QEMU for arm64 takes a quarter of an hour: unless that was done here before, another
# program for arm64 is in its package.
packages_build_arm64()
{
	local qemu

	deploy/build-deb --arch arm64 || return
	if compgen -G "$VSVA_CACHE/qemu-arm64-*/.complete" >/dev/null; then
		qemu-patches/build --deb --arch arm64
	else
		qemu=$DEB_FOLDER/vhost-user-vsva/debian/vhost-user-vsva
		qemu+=/usr/libexec/vhost-user-vsva/vhost-user-vsva
		(DEB_FOLDER=$VSVA_OUT/packages.stand-in && qemu_deb "$qemu" arm64)
	fi
}

# Errors and warnings; what is overridden has its reason in debian/*.lintian-overrides.
packages_lint()
{
	local user=()

	[ "$(id -u)" -ne 0 ] || user=(--allow-root)
	lintian --no-cfg --fail-on error,warning "${user[@]}" "$@"
}

packages_contents()
{
	python3 -B -m unittest discover -v --start-directory tests/packages --pattern contents.py
}

run()
{
	cd "$VSVA_ROOT"
	rm -rf "$VSVA_OUT"/packages.*
	run_test "packages are built" packages_build
	[ -s "$VSVA_OUT/packages.names" ] || return 0
	VSVA_PACKAGES=$(tr '\n' ' ' <"$VSVA_OUT/packages.names")
	export VSVA_PACKAGES
	if [ -s "$VSVA_OUT/packages.arm64" ]; then
		VSVA_PACKAGES_ARM64=$(tr '\n' ' ' <"$VSVA_OUT/packages.arm64")
		export VSVA_PACKAGES_ARM64
	fi
	# shellcheck disable=SC2086
	run_test "lintian" packages_lint $VSVA_PACKAGES ${VSVA_PACKAGES_ARM64:-}
	if [ -n "$LIBVIRT_HINDRANCE" ]; then
		run_test "contents" packages_contents
		result skip "installing, upgrading, removing" "$LIBVIRT_HINDRANCE"
		return
	fi
	export PYTHONPATH=$VSVA_ROOT/tests/avocado:$VSVA_ROOT/tests/libvirt
	avocado_run "$VSVA_ROOT/tests/packages"
}
