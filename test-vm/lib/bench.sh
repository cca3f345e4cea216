# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# The benchmarks: what they need, and how they are run.

bench_need()
{
	rust_need
	packages_install "${PACKAGES_BENCH[@]}"
}

bench_program()
{
	rust_program vsva-bench bench -p vsva-bench
}

# What the counts are taken of: the release program, and one in which nothing is inlined.
bench_build()
{
	VSVA_BACKEND=$(rust_backend)
	VSVA_BENCH=$(bench_program)
	logged "$VSVA_OUT/debug-build.log" rust_debug || die "the back-end could not be built"
	VSVA_DEBUG_BACKEND=${CARGO_TARGET_DIR:-$VSVA_ROOT/target}/debug/vhost-user-vsva
	export VSVA_BACKEND VSVA_BENCH VSVA_DEBUG_BACKEND
}

rust_debug()
{
	(cd "$VSVA_ROOT" && cargo build --locked --bin vhost-user-vsva)
}

# bench_counts [--write]: compares the counts with those in the repository, or writes new ones.
bench_counts()
{
	local counts=$VSVA_TEST_VM/bench.d/counts

	python3 -B "$counts" "$VSVA_BACKEND" "$VSVA_DEBUG_BACKEND" "$VSVA_BENCH" \
		"$counts/baseline.json" "$@"
}

# Where the peers are; one that is not there is named in the results.
bench_peers()
{
	VSVA_STORAGE_DAEMON=$(command -v qemu-storage-daemon || true)
	VSVA_VIRTIOFSD=$(bench_virtiofsd || true)
	export VSVA_STORAGE_DAEMON VSVA_VIRTIOFSD
}

# The machine's virtiofsd, or Debian 13's, unpacked into the cache. QEMU's own of before has no
# state.
bench_virtiofsd()
{
	local path=/usr/libexec/virtiofsd

	if [ ! -x $path ]; then
		path=$(cache_make virtiofsd "$(digest_files "$VSVA_TEST_VM/make/virtiofsd" \
			"$VSVA_TEST_VM/lib/debs.sh")" virtiofsd)/virtiofsd
	fi
	printf '%s\n' "$path"
}

# Runs a program with real-time priority, if that may be.
bench_in_real_time()
{
	if chrt -f 20 true 2>/dev/null; then
		chrt -f 20 "$@"
	else
		say "real-time priority is not permitted: other work on this machine shows in the figures"
		"$@"
	fi
}
