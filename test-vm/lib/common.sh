# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Where things are, and how to talk. Sourced first by every program here.

set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C.UTF-8

VSVA_TEST_VM=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VSVA_ROOT=$(dirname "$VSVA_TEST_VM")
VSVA_CACHE=${XDG_CACHE_HOME:-${HOME:?}/.cache}/vhost-user-vsva
VSVA_PATCHES=$VSVA_ROOT/qemu-patches
VSVA_JOBS=$(nproc)
export VSVA_OUT=${VSVA_OUT:-$VSVA_TEST_VM/out}
mkdir -p "$VSVA_CACHE" "$VSVA_OUT"

say()
{
	printf '%s\n' "$*" >&2
}

die()
{
	say "${0##*/}: $*"
	exit 1
}

# step NAME N/OF TEXT...
step()
{
	say "[$1 $2] ${*:3}"
}

# The end of a log, for the reader who wants to know why something failed.
show_log()
{
	[ -s "$1" ] || return 0
	say "--- the end of $1:"
	tail -n "${2:-30}" "$1" >&2
	say "---"
}

last_line()
{
	tail -n 1 "$1" 2>/dev/null | cut -c1-60
}

# logged LOG COMMAND... runs it silently, and shows the log's end if it fails.
logged()
{
	local log=$1 status=0

	shift
	"$@" >>"$log" 2>&1 </dev/null || status=$?
	[ $status -eq 0 ] || show_log "$log"
	return $status
}

# watched NAME N/OF LOG TEXT COMMAND...: like logged; every ten seconds it tells how
# far the command is: [DONE/ALL] in front of a line, else the line itself.
watched()
{
	local name=$1 at=$2 log=$3 text=$4 status=0

	shift 4
	step "$name" "$at" "$text"
	"$@" 2>&1 </dev/null | tell "$name" "$at" "$log" "$text" || status=$?
	[ $status -eq 0 ] || show_log "$log"
	return $status
}

# tell NAME N/OF LOG TEXT: the part of watched that reads; it also speaks when nothing
# has come for ten seconds, as then a command may be waiting for something.
tell()
{
	local name=$1 at=$2 log=$3 text=$4 next=$((SECONDS + 10)) part line='' last='' status

	while true; do
		status=0
		IFS= read -r -t 10 part || status=$?
		line+=$part
		if [ $status -eq 0 ] || { [ $status -le 128 ] && [ -n "$line" ]; }; then
			printf '%s\n' "$line" >>"$log"
			last=$line line=''
		fi
		[ $status -eq 0 ] || [ $status -gt 128 ] || break
		if [ $SECONDS -ge $next ]; then
			if [[ $last =~ ^\[([0-9]+/~?[0-9]+)\] ]]; then
				last=${BASH_REMATCH[1]}
			fi
			step "$name" "$at" "$text ${last:0:60}"
			next=$((SECONDS + 10))
		fi
	done
}

# numbered ABOUT COMMAND...: puts [N/~ABOUT] in front of each line of output. Not by
# awk, as Debian's reads ahead and so would tell late.
numbered()
{
	local about=$1 count=0 line

	shift
	"$@" 2>&1 | while IFS= read -r line; do
		count=$((count + 1))
		printf '[%s/~%s] %s\n' "$count" "$about" "$line"
	done
}

# The first 16 hex digits of what comes on standard input: enough for a name.
digest()
{
	sha256sum | cut -c1-16
}

# digest_files FILE...: of names (without their folder) and contents
digest_files()
{
	local file

	for file in "$@"; do
		printf '%s ' "${file##*/}"
		sha256sum <"$file"
	done | digest
}
