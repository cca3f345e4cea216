# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Things that take long to make, each kept under a key of all it is made of.

# cache_path NAME KEY
cache_path()
{
	printf '%s/%s-%s\n' "$VSVA_CACHE" "$1" "$2"
}

cache_complete()
{
	[ -e "$1/.complete" ]
}

# cache_remove PATH...: some folders contain the files of a root file system.
cache_remove()
{
	rm -rf --one-file-system "$@" 2>/dev/null || as_root rm -rf --one-file-system "$@"
}

# cache_lock NAME LOG LOCK: locks file descriptor 9. Who waits says for whom, and how
# far that one is.
cache_lock()
{
	local name=$1 log=$2 lock=$3 holder

	until flock -n 9; do
		holder=$(<"$lock")
		if [ "${holder%%:*}" = $$ ]; then
			step "$name" waiting "for what was begun in the background: $(last_line "$log")"
		else
			step "$name" waiting "for process ${holder:-?}, which makes it: $(last_line "$log")"
		fi
		flock -w 30 9 && break
	done
	printf '%s: %s\n' $$ "$0" >"$lock"
}

# cache_make NAME KEY PROGRAM ARGUMENT...: makes the folder NAME-KEY by running
# make/PROGRAM FOLDER LOG ARGUMENT..., unless it is there, and prints its path. A
# folder counts only when the program has succeeded; two that want the same one
# make it once.
cache_make()
{
	local name=$1 program=$3 folder log

	folder=$(cache_path "$1" "$2")
	log=$folder.log
	shift 3
	if ! cache_complete "$folder"; then
		(
			cache_lock "$name" "$log" "$folder.lock"
			if ! cache_complete "$folder"; then
				cache_remove "$folder"
				mkdir "$folder"
				: >"$log"
				"$VSVA_TEST_VM/make/$program" "$folder" "$log" "$@" >&2 </dev/null 9>&- ||
					die "$name could not be made; the whole log: $log"
				: >"$folder/.complete"
			fi
		) 9>>"$folder.lock" || exit 1
	fi
	touch "$folder/.used"
	printf '%s\n' "$folder"
}

# Forgets what no program has asked for in the last DAYS days, and what programs
# that were killed left behind.
cache_prune()
{
	local days=$1 folder

	find "$VSVA_CACHE" -maxdepth 1 -name 'tmp.??????' -mtime +0 -exec rm -rf {} +
	for folder in "$VSVA_CACHE"/*-*/; do
		folder=${folder%/}
		[ -d "$folder" ] || continue
		if [ -z "$(find "$folder" -maxdepth 1 -name .used -mtime "-$days")" ]; then
			(
				flock -n 9 || exit 0
				say "removing $folder"
				cache_remove "$folder" "$folder.log" "$folder.lock"
			) 9>>"$folder.lock"
		fi
	done
}
