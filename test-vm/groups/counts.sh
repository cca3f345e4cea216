# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# What the back-end does for a fault, a command, a submission: system calls, instructions, locks.
# None of them depends on how busy the machine is, so more of them than there were is a failure.

needs()
{
	rust_need
	packages_install "${PACKAGES_COUNTS[@]}"
	bench_build
}

run()
{
	run_test "counts" bench_counts
}
