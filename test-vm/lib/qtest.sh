# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# QEMU's own tests, on the patched build and, once for each version of it, on the
# unpatched one. What passes there must pass here.

# Tests of the series itself, which the unpatched QEMU has not.
qtest_own()
{
	find "$1/src/tests/qtest" -maxdepth 1 \( -name '*vsva*-test.c' -o -name '*smmuv3*-test.c' \) \
		-printf '%f\n' | sed 's/\.c$//' | sort
}

# qtest_run NAME QEMU FILE TEST...: writes pass|fail|skip and name into FILE
qtest_run()
{
	local name=$1 qemu=$2 file=$3 log tests at=0 test

	shift 3
	tests=("${@/#/tests/qtest/}")
	log=$qemu/qtest.log
	: >"$log"
	: >"$file.new"
	# The source package has no firmware; Debian's iPXE has what network cards want.
	mkdir -p "$qemu/build/qemu-bundle/usr/local/share/qemu"
	ln -sf /usr/lib/ipxe/qemu/*.rom "$qemu/build/qemu-bundle/usr/local/share/qemu/"
	NINJA_STATUS='[%f/%t] ' watched "$name" qtests "$log" building \
		ninja -C "$qemu/build" -j "$VSVA_JOBS" qemu-system-aarch64 qemu-img "${tests[@]}"
	for test in "$@"; do
		at=$((at + 1))
		step "$name" "$at/$#" "$test"
		qtest_one "$qemu/build" "$test" "$qemu/$test.log"
		qtest_parse "$test" "$qemu/$test.log" >>"$file.new"
	done
	mv "$file.new" "$file"
}

qtest_one()
{
	local build=$1 test=$2 log=$3 status=0

	(
		cd "$build"
		QTEST_QEMU_BINARY=./qemu-system-aarch64 QTEST_QEMU_IMG=./qemu-img \
			timeout 1800 "tests/qtest/$test" --tap -k
	) >"$log" 2>&1 </dev/null || status=$?
	echo "exit status: $status" >>"$log"
}

qtest_parse()
{
	awk -v test="$1" '
		{ sub(/\r$/, "") }
		/^ok [0-9]+ .*# SKIP/ { sub(/ *# SKIP.*/, ""); kind = "skip" }
		/^ok [0-9]+ / && !kind { kind = "pass" }
		/^not ok [0-9]+ / { sub(/^not /, ""); kind = "fail"; failed = 1 }
		kind { sub(/^ok [0-9]+ -? ?/, ""); print kind "\t" test " " $0; n++; kind = "" }
		/^exit status: / && (!n || $3 != 0 && !failed) { print "fail\t" test " (exit status " $3 ")" }
	' "$2"
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
	expected=$base/qtests.tsv
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
