# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# QEMU's own tests, on the patched build and, once for each version of it, on the
# unpatched one. What passes there must pass here; a program that lists no tests there
# has been compared with nothing.

# Programs with tests of the series itself, which the unpatched QEMU has not. Its
# other tests are parts of qos-test.
qtest_own()
{
	ninja -C "$1/build" -t targets all |
		sed -nE 's,^tests/qtest/([^/]*(vsva|smmuv3)[^/]*-test): .*,\1,p' | sort -u
}

# A folder with rom/
qtest_roms()
{
	cache_make ipxe "$(digest_files "$VSVA_TEST_VM/make/ipxe" "$VSVA_TEST_VM/lib/debs.sh")" ipxe
}

# The paths that a test program lists with -l; GLib writes them as comments since 2.80 or so.
qtest_list()
{
	sed -nE 's,^(# ?)? *(/.*)$,\2,p'
}

# qtest_run NAME QEMU FILE PROGRAM...: writes pass|fail|skip and name into FILE, and none
# and PROGRAM for one that lists no tests
qtest_run()
{
	local name=$1 qemu=$2 file=$3 log=$2/qtest.log program at=0 paths

	shift 3
	: >"$log"
	: >"$file.new"
	mkdir -p "$qemu/build/qemu-bundle/usr/local/share/qemu"
	ln -sf "$QTEST_ROMS"/rom/*.rom "$qemu/build/qemu-bundle/usr/local/share/qemu/"
	NINJA_STATUS='[%f/%t] ' watched "$name" qtests "$log" building \
		ninja -C "$qemu/build" -j "$VSVA_JOBS" qemu-system-aarch64 qemu-img \
		"${@/#/tests/qtest/}"
	for program in "$@"; do
		at=$((at + 1))
		printf '%s -l\n' "$program" >"$qemu/$program.log"
		mapfile -t paths < <(qtest_program "$qemu/build" "$program" -l \
			2>>"$qemu/$program.log" | tee -a "$qemu/$program.log" | qtest_list)
		qtest_paths "$name" "$at/$#" "$qemu" "$program" "${paths[@]}" >>"$file.new"
	done
	mv "$file.new" "$file"
}

# qtest_program BUILD PROGRAM ARGUMENT...
qtest_program()
{
	(
		cd "$1"
		QTEST_QEMU_BINARY=./qemu-system-aarch64 QTEST_QEMU_IMG=./qemu-img \
			timeout 600 "tests/qtest/$2" "${@:3}" </dev/null
	)
}

# qtest_one QEMU PROGRAM PATH: a test in a process of its own, as one that fails ends the
# process and with it all that would come after. Prints pass, fail or skip.
qtest_one()
{
	local qemu=$1 program=$2 path=$3 output kind=fail

	if output=$(qtest_program "$qemu/build" "$program" --tap -k -p "$path" 2>&1); then
		if grep -q '^ *ok .*# SKIP' <<<"$output"; then
			kind=skip
		elif grep -q '^ *ok ' <<<"$output"; then
			kind=pass
		fi
	fi
	printf '%s %s\n%s\n' "$kind" "$path" "$output" >>"$qemu/$program.log"
	printf '%s\n' "$kind"
}

# qtest_paths NAME N/OF QEMU PROGRAM PATH...
qtest_paths()
{
	local name=$1 at=$2 qemu=$3 program=$4 path count=0 next=$SECONDS

	shift 4
	if [ $# -eq 0 ]; then
		printf 'none\t%s\n' "$program"
	fi
	for path in "$@"; do
		count=$((count + 1))
		if [ $SECONDS -ge $next ]; then
			step "$name" "$at" "$program $count/$#"
			next=$((SECONDS + 10))
		fi
		printf '%s\t%s %s\n' "$(qtest_one "$qemu" "$program" "$path")" "$program" "$path"
	done
}

# qtest_has FILE KIND NAME: is that in FILE?
qtest_has()
{
	grep -qxF "$2"$'\t'"$3" "$1"
}

# qtest_reason LOG NAME: what QEMU says to why it has skipped the test
qtest_reason()
{
	awk -v of="skip ${2#* }" '
		$0 == of { on = 1; next }
		on && sub(/.*# SKIP */, "") { print; exit }' "$1"
}

# qtest_expected QEMU: the file with the unpatched one's results. Those in which nothing was
# run are no results, and are not kept. Two that want the same ones run the tests once.
qtest_expected()
{
	local base=$1 expected name empty=$VSVA_OUT/qtests-unpatched.tsv

	expected=$base/qtests-$(digest_files "${BASH_SOURCE[0]}").tsv
	(
		cache_lock qemu-base "$base/qtest.log" "$expected.lock"
		if [ ! -s "$expected" ]; then
			qtest_run qemu-base "$base" "$expected" "${QTESTS[@]}" 9>&-
			if grep -q ^none "$expected"; then
				mv "$expected" "$empty"
			fi
		fi
	) 9>>"$expected.lock" || exit 1
	[ -s "$expected" ] || expected=$empty
	while read -r name; do
		result fail "$name" "it lists no tests on the unpatched QEMU, so there is nothing to compare with"
		keep_log "unpatched-$name.log" "$base/$name.log"
	done < <(sed -n 's/^none\t//p' "$expected")
	printf '%s\n' "$expected"
}

# qtest_failed NAME PATCHED EXPECTED BASE: the same test is to blame only if the unpatched QEMU
# fails it now, and not only when it was tested
qtest_failed()
{
	local name=$1 patched=$2 expected=$3 base=$4 program path

	program=${name%% *} path=${name#* }
	if qtest_has "$expected" fail "$name" &&
		[ "$(qtest_one "$base" "$program" "$path")" = fail ]; then
		result skip "$name" \
			"$program -p $path was run on the unpatched QEMU and fails there as well: $base/$program.log"
	else
		result fail "$name"
		keep_log "$program.log" "$patched/$program.log"
	fi
}

# qtest_results FILE QEMU EXPECTED BASE: the patched QEMU's, compared with the unpatched one's
qtest_results()
{
	local file=$1 patched=$2 expected=$3 base=$4 kind name

	while IFS=$'\t' read -r kind name; do
		case $kind in
		none)
			result fail "$name" "it lists no tests"
			keep_log "$name.log" "$patched/$name.log"
			;;
		fail)
			qtest_failed "$name" "$patched" "$expected" "$base"
			;;
		skip) result skip "$name" "QEMU: $(qtest_reason "$patched/${name%% *}.log" "$name")" ;;
		*) result "$kind" "$name" ;;
		esac
	done <"$file"
	while IFS=$'\t' read -r kind name; do
		if [ "$kind" = pass ] && ! grep -qF $'\t'"$name" "$file"; then
			result fail "$name" "it did not run on the patched QEMU"
		fi
	done <"$expected"
}

qtest_compare()
{
	local patched base expected own file=$VSVA_OUT/qtests.tsv

	patched=$(qemu_patched)
	mapfile -t own < <(qtest_own "$patched")
	base=$(qemu_unpatched)
	expected=$(qtest_expected "$base")
	qtest_run qemu "$patched" "$file" "${QTESTS[@]}" "${own[@]}"
	qtest_results "$file" "$patched" "$expected" "$base"
}
