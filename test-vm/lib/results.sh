# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# One line for each test in RESULTS (pass|fail|skip, group, name, note), and the
# logs of those that failed in FAILURES.

RESULTS=$VSVA_OUT/results.tsv
FAILURES=$VSVA_OUT/failed

results_begin()
{
	rm -rf "$FAILURES"
	mkdir -p "$FAILURES"
	: >"$RESULTS"
}

result()
{
	printf '%s\t%s\t%s\t%s\n' "$1" "$GROUP" "$2" "${3:-}" >>"$RESULTS"
	case $1 in
	fail) say "FAIL $GROUP: $2${3:+ ($3)}" ;;
	skip) say "SKIP $GROUP: $2${3:+ ($3)}" ;;
	esac
}

# keep_log NAME FILE: of a test that failed
keep_log()
{
	mkdir -p "$FAILURES/$GROUP"
	cp -r "$2" "$FAILURES/$GROUP/${1//\//-}"
}

# run_test NAME COMMAND...: a test that is a command
run_test()
{
	local name=$1 log

	shift
	log=$(mktemp "$VSVA_OUT/log.XXXXXX")
	if watched "$GROUP" test "$log" "$name" "$@"; then
		result pass "$name"
	else
		result fail "$name"
		keep_log "$name.log" "$log"
	fi
	rm -f "$log"
}

results_count()
{
	awk -F '\t' -v kind="$1" '$1 == kind { n++ } END { print n + 0 }' "$RESULTS"
}

# Prints the summary; false if a test failed or none ran.
results_end()
{
	local passed failed skipped

	passed=$(results_count pass)
	failed=$(results_count fail)
	skipped=$(results_count skip)
	[ "$failed" -eq 0 ] || say "logs of what failed: $FAILURES"
	printf '%s passed, %s failed, %s skipped\n' "$passed" "$failed" "$skipped"
	[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}
