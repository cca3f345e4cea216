# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Guests in the patched QEMU with the backend, and QEMU's own tests.

. "$VSVA_TEST_VM/lib/avocado.sh"
. "$VSVA_TEST_VM/lib/qtest.sh"

needs()
{
	setup_machine
	QTEST_ROMS=$(qtest_roms)
}

run()
{
	run_test "demo: report" "$VSVA_VENV/bin/python" -B -m unittest discover \
		-s "$VSVA_TEST_VM/demo.d"
	avocado_run "$VSVA_ROOT/tests/avocado"
	qtest_compare
}
