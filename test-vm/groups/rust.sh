# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# The Rust crate: format, lints, documentation, tests.

needs()
{
	rust_need_lints
	venv_path trace >/dev/null
	command -v python3 >/dev/null || packages_install python3
}

# Turns cargo test's lines into results.
rust_results()
{
	local of='' line status name
	local running='^ *(Running|Doc-tests) (unittests )?([^ ]+)'
	local outcome='^test (.*) \.\.\. (ok|FAILED|ignored)(, (.*))?$'

	while IFS= read -r line; do
		if [[ $line =~ $running ]]; then
			of=${BASH_REMATCH[3]%.rs}
		elif [[ $line =~ $outcome ]]; then
			name="$of ${BASH_REMATCH[1]% - should panic}"
			status=${BASH_REMATCH[2]}
			case $status in
			ok) result pass "$name" ;;
			FAILED) result fail "$name" ;;
			ignored) result skip "$name" "${BASH_REMATCH[4]:-ignored}" ;;
			esac
		fi
	done <"$1"
}

rust_tests()
{
	local log=$VSVA_OUT/cargo-test.log status=0 failed

	: >"$log"
	watched rust test "$log" "cargo test" \
		cargo test --locked --all-features --no-fail-fast || status=$?
	failed=$(results_count fail)
	rust_results "$log"
	if [ $status -ne 0 ]; then
		keep_log cargo-test.log "$log"
		# It may fail without a failed test, when something does not compile.
		[ "$(results_count fail)" -gt "$failed" ] ||
			result fail "cargo test" "it ended with status $status"
	fi
}

# Python's tests of the program, which cargo test has built: the option tables of the documents, and
# a front end that was written from docs/protocol.md.
python_tests()
{
	local python=${2:-python3}

	VSVA_BACKEND=$(cargo build --locked --all-features --message-format=json |
		sed -nE 's,.*"executable":"([^"]*/vhost-user-vsva)".*,\1,p')
	export VSVA_BACKEND
	"$python" -B -m unittest discover --start-directory "$1"
}

run()
{
	cd "$VSVA_ROOT"
	run_test "cargo fmt" cargo fmt --check
	run_test "cargo clippy" cargo clippy --locked --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' run_test "cargo doc" \
		cargo doc --locked --no-deps --all-features --document-private-items
	rust_tests
	run_test "documents" python_tests tests/documents
	run_test "front end" python_tests tests/front_end
	run_test "trace" python_tests tests/trace "$(venv_path trace)/bin/python"
	VSVA_PROMTOOL=$(promtool_program)
	export VSVA_PROMTOOL
	run_test "monitoring" python_tests tests/monitoring
}
