# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Deployment beside libvirt: the programs of deploy/, and domains of a real libvirtd
# that a real systemd runs, on one or two Debians in namespaces of their own, or in a
# virtual machine with Debian's own kernel.

. "$VSVA_TEST_VM/lib/avocado.sh"

# Which Debian's libvirt: trixie, sid, bookworm-backports, or bookworm, whose libvirt is too old.
LIBVIRT_SUITE=${VSVA_LIBVIRT_SUITE:-trixie}
# The first one that can drive the patched QEMU.
LIBVIRT_OLDEST=11.3

libvirt_root()
{
	cache_make "libvirt-root-$LIBVIRT_SUITE" "$(digest_files "$VSVA_TEST_VM/make/libvirt-root")" \
		libvirt-root "$LIBVIRT_SUITE"
}

# Why such a host cannot be booted here; nothing if it can.
libvirt_hindrance()
{
	local VERSION_CODENAME=''

	# shellcheck source=/dev/null
	. /etc/os-release
	if [ "$(id -u)" -ne 0 ]; then
		echo "it needs root: sudo test-vm/check libvirt"
	elif [[ $LIBVIRT_SUITE = bookworm* && $VERSION_CODENAME != bookworm ]]; then
		echo "a QEMU that was built on $VERSION_CODENAME does not run on bookworm"
	elif ! unshare --mount --pid --net --uts --ipc --cgroup --fork true 2>/dev/null; then
		echo "namespaces cannot be made here"
	elif ! awk '$3 == "cgroup2" && $4 ~ /^rw/ { found = 1 } END { exit !found }' \
		/proc/self/mounts; then
		echo "no cgroup2 is mounted here that can be written to, and systemd needs one"
	fi
}

# The version of libvirt that the Debian in ROOT has.
libvirt_version()
{
	dpkg-query --admindir="$1/var/lib/dpkg" -W -f '${Version}\n' libvirt0
}

needs()
{
	LIBVIRT_HINDRANCE=$(libvirt_hindrance)
	[ -z "$LIBVIRT_HINDRANCE" ] || return 0
	setup_machine "${PACKAGES_LIBVIRT[@]}" "${PACKAGES_DEB[@]}"
	VSVA_LIBVIRT_ROOT=$(libvirt_root)/root
	VSVA_PACKAGES="$("$VSVA_ROOT/deploy/build-deb") $("$VSVA_PATCHES/build" --deb)"
	export VSVA_LIBVIRT_ROOT VSVA_PACKAGES
}

libvirt_unit_tests()
{
	cd "$VSVA_ROOT" || return
	python3 -B -m unittest discover --top-level-directory . --start-directory deploy/tests
}

run()
{
	run_test "deploy unit tests" libvirt_unit_tests
	if [ -n "$LIBVIRT_HINDRANCE" ]; then
		say "NO DOMAIN OF LIBVIRT IS TESTED: $LIBVIRT_HINDRANCE"
		result skip "domains of a real libvirtd" "$LIBVIRT_HINDRANCE"
		return
	fi
	local version tests=tests/libvirt

	version=$(libvirt_version "$VSVA_LIBVIRT_ROOT")
	say "libvirt $version, as packaged in Debian $LIBVIRT_SUITE"
	if dpkg --compare-versions "$version" lt "$LIBVIRT_OLDEST"; then
		say "NO DOMAIN IS STARTED: a libvirt before $LIBVIRT_OLDEST cannot drive this QEMU"
		tests=tests/libvirt-too-old
	fi
	export PYTHONPATH=$VSVA_ROOT/tests/avocado:$VSVA_ROOT/tests/libvirt
	avocado_run "$VSVA_ROOT/$tests"
}
