# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# The scripts of test-vm themselves, without anything that they build.

needs()
{
	packages_install "${PACKAGES_PYTHON[@]}"
}

run()
{
	run_test "set-up" python3 -B -m unittest discover -v -s "$VSVA_TEST_VM/tests"
	run_test "kernel rig: verdicts" python3 -B -m unittest discover -v \
		-s "$VSVA_TEST_VM/kernel-rig/run.d"
}
