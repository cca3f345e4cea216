# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# QEMU's own tests, on the patched build and, once for each version of it, on the
# unpatched one. What passes there must pass here.

# Programs with tests of the series itself, which the unpatched QEMU has not. Its
# other tests are parts of qos-test.
qtest_own()
{
	ninja -C "$1/build" -t targets all |
		sed -nE 's,^tests/qtest/([^/]*(vsva|smmuv3)[^/]*-test): .*,\1,p' | sort -u
}

# qtest_run NAME QEMU FILE PROGRAM...: writes pass|fail|skip and name into FILE
qtest_run()
{
	local name=$1 qemu=$2 file=$3 log=$2/qtest.log program at=0 paths

	shift 3
	: >"$log"
	: >"$file.new"
	mkdir -p "$qemu/build/qemu-bundle/usr/local/share/qemu"
	# The source package has no firmware; Debian's iPXE has what network cards want.
	ln -sf /usr/lib/ipxe/qemu/*.rom "$qemu/build/qemu-bundle/usr/local/share/qemu/"
	NINJA_STATUS='[%f/%t] ' watched "$name" qtests "$log" building \
		ninja -C "$qemu/build" -j "$VSVA_JOBS" qemu-system-aarch64 qemu-img \
		"${@/#/tests/qtest/}"
	for program in "$@"; do
		at=$((at + 1))
		: >"$qemu/$program.log"
		mapfile -t paths < <(qtest_program "$qemu/build" "$program" -l 2>/dev/null |
			sed -nE 's,^ *(/.*),\1,p')
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

# qtest_paths NAME N/OF QEMU PROGRAM PATH...: each test in a process of its own, as
# one that fails ends the process and with it all that would come after.
qtest_paths()
{
	local name=$1 at=$2 qemu=$3 program=$4 path count=0 next=$SECONDS output kind

	shift 4
	if [ $# -eq 0 ]; then
		printf 'fail\t%s (it lists no tests)\n' "$program"
	fi
	for path in "$@"; do
		count=$((count + 1))
		if [ $SECONDS -ge $next ]; then
			step "$name" "$at" "$program $count/$#"
			next=$((SECONDS + 10))
		fi
		if ! output=$(qtest_program "$qemu/build" "$program" --tap -k -p "$path" 2>&1); then
			kind=fail
		elif grep -q '^ *ok .*# SKIP' <<<"$output"; then
			kind=skip
		elif grep -q '^ *ok ' <<<"$output"; then
			kind=pass
		else
			kind=fail
		fi
		printf '%s %s\n%s\n' "$kind" "$path" "$output" >>"$qemu/$program.log"
		printf '%s\t%s %s\n' "$kind" "$program" "$path"
	done
}

# qtest_note FILE KIND NAME: is that in FILE?
qtest_note()
{
	grep -qxF "$2"$'\t'"$3" "$1"
}

qtest_compare()
{
	local patched base=none file expected kind name own

	patched=$(qemu_patched)
	mapfile -t own < <(qtest_own "$patched")
	base=$(qemu_unpatched)
	expected=$base/qtests-$(digest_files "${BASH_SOURCE[0]}").tsv
	[ -s "$expected" ] || qtest_run qemu-base "$base" "$expected" "${QTESTS[@]}"

	file=$VSVA_OUT/qtests.tsv
	qtest_run qemu "$patched" "$file" "${QTESTS[@]}" "${own[@]}"
	while IFS=$'\t' read -r kind name; do
		if [ "$kind" = fail ] && qtest_note "$expected" fail "$name"; then
			result skip "$name" "fails on the unpatched QEMU as well"
		elif [ "$kind" = fail ]; then
			result fail "$name"
			keep_log "${name%% *}.log" "$patched/${name%% *}.log"
		else
			result "$kind" "$name" "$([ "$kind" = pass ] || echo "skipped by QEMU")"
		fi
	done <"$file"
	while IFS=$'\t' read -r kind name; do
		if [ "$kind" = pass ] && ! grep -qF $'\t'"$name" "$file"; then
			result fail "$name" "it did not run on the patched QEMU"
		fi
	done <"$expected"
}
