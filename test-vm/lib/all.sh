# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$VSVA_TEST_VM/lib/cache.sh"
. "$VSVA_TEST_VM/lib/packages.sh"
. "$VSVA_TEST_VM/lib/apt.sh"
. "$VSVA_TEST_VM/lib/source.sh"
. "$VSVA_TEST_VM/lib/linux.sh"
. "$VSVA_TEST_VM/lib/venv.sh"
. "$VSVA_TEST_VM/lib/qemu.sh"
. "$VSVA_TEST_VM/lib/guest.sh"
. "$VSVA_TEST_VM/lib/rust.sh"
. "$VSVA_TEST_VM/lib/setup.sh"
. "$VSVA_TEST_VM/lib/rig.sh"
. "$VSVA_TEST_VM/lib/deb.sh"
. "$VSVA_TEST_VM/lib/bench.sh"
