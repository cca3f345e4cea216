# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Runs avocado tests and turns its report into results.

# avocado_run FOLDER
avocado_run()
{
	local out=$VSVA_OUT/avocado log=$VSVA_OUT/avocado.log status=0

	rm -rf "$out"
	mkdir -p "$out/home" "$FAILURES/$GROUP"
	step "$GROUP" test "avocado run ${1#"$VSVA_ROOT"/}"
	# Its own home, so that neither results nor settings of another use matter.
	(
		cd "$1"
		HOME=$out/home VSVA_OUT=$FAILURES/$GROUP \
			"$VSVA_VENV/bin/avocado" run \
			--max-parallel-tasks=1 --disable-sysinfo --job-results-dir "$out/job" \
			--json "$out/results.json" . </dev/null
	) 2>&1 | tee "$log" >&2 || status=$?
	if [ ! -s "$out/results.json" ]; then
		result fail "avocado run" "it left no report, status $status"
		keep_log avocado.log "$log"
		return
	fi
	avocado_results "$out"
}

avocado_results()
{
	local kind name note log before

	before=$(results_count pass)
	while IFS=$'\t' read -r kind name note log; do
		result "$kind" "$name" "$note"
		if [ "$kind" = fail ]; then
			[ ! -d "$log" ] || keep_log "$name" "$log"
		fi
	done < <("$VSVA_VENV/bin/python" "$VSVA_TEST_VM/lib/avocado_report.py" "$1/results.json")
	[ "$(results_count pass)" -gt "$before" ] || result fail "avocado run" "no test passed"
}
