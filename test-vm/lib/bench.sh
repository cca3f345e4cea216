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

# Where the peers are; one that is not there is named in the results.
bench_peers()
{
	VSVA_STORAGE_DAEMON=$(command -v qemu-storage-daemon || true)
	VSVA_VIRTIOFSD=$(bench_virtiofsd || true)
	export VSVA_STORAGE_DAEMON VSVA_VIRTIOFSD
}

# The machine's virtiofsd, or Debian 13's, unpacked into the cache. QEMU's own of before has no state.
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
