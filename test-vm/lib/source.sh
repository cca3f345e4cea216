# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Source packages: from the Debian mirror, else from the folder that
# VSVA_SOURCE_CACHE names, which has the same files and a SHA256SUMS.

# source_names PATTERN: names in that folder that match
source_names()
{
	local name

	[ -n "${VSVA_SOURCE_CACHE:-}" ] && [ -f "$VSVA_SOURCE_CACHE/SHA256SUMS" ] || return 0
	while read -r name; do
		# shellcheck disable=SC2053
		[[ $name != $1 ]] || printf '%s\n' "$name"
	done < <(awk '{ sub(/^\*/, "", $2); print $2 }' "$VSVA_SOURCE_CACHE/SHA256SUMS")
}

# source_from_folder FOLDER LOG PATTERN...: files whose names match, once verified
source_from_folder()
{
	local destination=$1 log=$2 from=${VSVA_SOURCE_CACHE:-} sums pattern name found=1

	shift 2
	[ -n "$from" ] && [ -f "$from/SHA256SUMS" ] || return 1
	sums=$(<"$from/SHA256SUMS")
	for pattern in "$@"; do
		while read -r name; do
			cp "$from/$name" "$destination/" || return 1
			(cd "$destination" && grep -F "  $name" <<<"$sums" | sha256sum -c --quiet) \
				>>"$log" 2>&1 || return 1
			found=0
		done < <(source_names "$pattern")
	done
	return $found
}

# source_fetch WHAT FOLDER LOG PATTERN TYPE SUITE TOOL ARGUMENT...
source_fetch()
{
	local what=$1 folder=$2 log=$3 pattern=$4

	shift 4
	apt_fetch "$folder" "$log" "$@" && return
	say "the mirror did not give $what; looking into VSVA_SOURCE_CACHE" \
		"(${VSVA_SOURCE_CACHE:-not set})"
	source_from_folder "$folder" "$log" "$pattern" && return
	show_log "$log"
	die "$what came neither from the mirror nor from a folder in VSVA_SOURCE_CACHE with that file" \
		"and SHA256SUMS"
}
