# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Deployment beside libvirt: the programs of deploy/, and domains of a real libvirtd
# that a real systemd runs, on one or two Debian 13 in namespaces of their own.

. "$VSVA_TEST_VM/lib/avocado.sh"

libvirt_root()
{
	cache_make libvirt-root "$(digest_files "$VSVA_TEST_VM/make/libvirt-root")" libvirt-root
}

# Why such a host cannot be booted here; nothing if it can.
libvirt_hindrance()
{
	if [ "$(id -u)" -ne 0 ]; then
		echo "it needs root: sudo test-vm/check libvirt"
	elif ! unshare --mount --pid --net --uts --ipc --cgroup --fork true 2>/dev/null; then
		echo "namespaces cannot be made here"
	elif ! awk '$3 == "cgroup2" && $4 ~ /^rw/ { found = 1 } END { exit !found }' /proc/self/mounts; then
		echo "no cgroup2 is mounted here that can be written to, and systemd needs one"
	fi
}

needs()
{
	LIBVIRT_HINDRANCE=$(libvirt_hindrance)
	[ -z "$LIBVIRT_HINDRANCE" ] || return 0
	setup_machine debootstrap util-linux
	VSVA_LIBVIRT_ROOT=$(libvirt_root)/root
	export VSVA_LIBVIRT_ROOT
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
	export PYTHONPATH=$VSVA_ROOT/tests/avocado
	avocado_run "$VSVA_ROOT/tests/libvirt"
}
