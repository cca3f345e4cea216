# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# The rig that runs the backend on a kernel's own fault queue.

# Debian's releases that may have the source package, and its name; with a + behind it, the
# newest from that one on. Another one: VSVA_RIG_LINUX=linux-source-7.2, for example.
read -ra RIG_SUITES <<<"${VSVA_RIG_SUITE:-sid trixie-backports}"
RIG_PACKAGE=${VSVA_RIG_LINUX:-linux-source-7.2+}
RIG=$VSVA_TEST_VM/kernel-rig
RIG_TARGET=aarch64-unknown-linux-gnu
# The folder in the toolchain's in which is built.
RIG_BUILD=build

# The newest package when it was first fetched; pruning it fetches again.
rig_source()
{
	local key

	key=$({
		digest_files "$VSVA_TEST_VM/make/linux-source" "$VSVA_TEST_VM/lib/linux.sh"
		echo "$RIG_PACKAGE ${RIG_SUITES[*]}"
	} | digest)
	(cache_make linux-source-rig "$key" linux-source "$RIG_PACKAGE" "${RIG_SUITES[@]}") ||
		die "VSVA_RIG_SUITE and VSVA_RIG_LINUX name other releases and another package"
}

# rig_kernel ARCH TOOLCHAIN: a folder with kernel
rig_kernel()
{
	local arch=$1 root=$2/root source key

	source=$(rig_source)
	key=$({
		cat "$source/VERSION"
		digest_files "$VSVA_TEST_VM/make/rig-kernel" "$RIG/$arch.config"
		dpkg-query --admindir="$root/var/lib/dpkg" -W gcc gcc-aarch64-linux-gnu
	} | digest)
	(cache_make "rig-kernel-$arch" "$key" rig-kernel "$source" "$arch" "$RIG/$arch.config" \
		"$root") || {
		as_root rm -rf "$root/build/rig-kernel-$arch-$key"
		die "another kernel than $(<"$source/VERSION"): VSVA_RIG_LINUX=linux-source-7.2, for example"
	}
}

# A folder with qemu-system-x86_64, and qemu-aarch64, which runs arm64 programs.
rig_emulators()
{
	cache_make rig-emulators "$(digest_files "$VSVA_TEST_VM/make/rig-emulators" \
		"$VSVA_TEST_VM/lib/debs.sh")" rig-emulators
}

# A folder with root, in which is Debian's Python for arm64.
rig_python()
{
	cache_make arm64-python "$(digest_files "$VSVA_TEST_VM/make/arm64-python" \
		"$VSVA_TEST_VM/lib/debs.sh")" arm64-python
}

# A folder with root, in which the kernels and arm64 programs are built.
rig_toolchain()
{
	cache_make arm64-toolchain "$(digest_files "$VSVA_TEST_VM/make/arm64-toolchain")" arm64-toolchain
}

# Fetches in the background what is needed after the toolchain.
rig_prefetch()
{
	(
		rust_fetch &
		rig_source >/dev/null &
		rig_emulators >/dev/null &
		rig_python >/dev/null &
		wait
	) &
}

# Puts the crate and the crates it needs into the toolchain's folder.
rig_copy_source()
{
	local root=$1 build=$1/$RIG_BUILD crates

	cd "$VSVA_ROOT"
	crates=$(digest_files Cargo.lock)
	as_root mkdir -p "$build"
	as_root chown "$(id -u):$(id -g)" "$build"
	if [ ! -e "$build/vendor-$crates" ]; then
		rm -rf "$build"/vendor*
		cargo vendor --locked --quiet "$build/vendor-new" >/dev/null
		mv "$build/vendor-new" "$build/vendor-$crates"
	fi
	mkdir -p "$build/home"
	printf '[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "%s"\n' \
		"/$RIG_BUILD/vendor-$crates" >"$build/home/config.toml"
	# With their times, so that cargo builds again only what has changed.
	rm -rf "$build/src"
	mkdir "$build/src"
	tar -c --exclude=./target --exclude=./test-vm/out --exclude=./.git . | tar -x -C "$build/src"
}

# rig_cargo TOOLCHAIN COMMAND ARGUMENT...: cargo for arm64, static
rig_cargo()
{
	local root=$1/root command=$2 variable=CARGO_TARGET_${RIG_TARGET^^}

	variable=${variable//-/_}
	shift 2
	as_root chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME="/$RIG_BUILD" \
		CARGO_HOME="/$RIG_BUILD/home" CARGO_TARGET_DIR="/$RIG_BUILD/target" CARGO_NET_OFFLINE=true \
		"${variable}_LINKER=aarch64-linux-gnu-gcc" \
		"${variable}_RUSTFLAGS=-C target-feature=+crt-static" \
		"${variable}_RUNNER=/$RIG_BUILD/qemu-aarch64" RUST_TEST_THREADS="$VSVA_JOBS" \
		/bin/sh -ec 'cd "$HOME/src" && exec cargo "$@"' cargo \
		"$command" --locked --target "$RIG_TARGET" "$@"
}

# Builds the backend's release binary and the rig's program for arm64 and prints
# the folder they are in.
rig_programs_arm64()
{
	local toolchain=$1 log=$VSVA_OUT/rig-arm64.log package

	: >"$log"
	logged "$log" rig_copy_source "$toolchain/root"
	# One after the other: together they would share their features.
	for package in vhost-user-vsva vsva-kernel-rig; do
		watched "rig arm64" 1/1 "$log" "cargo build $package" numbered "$(rust_crates)" \
			rig_cargo "$toolchain" build --release --package "$package" --bins ||
			die "$package could not be built for arm64"
	done
	printf '%s\n' "$toolchain/root/$RIG_BUILD/target/$RIG_TARGET/release"
}

# The same for this machine.
rig_programs_native()
{
	local log=$VSVA_OUT/rig-native.log target=x86_64-unknown-linux-gnu package

	: >"$log"
	cd "$VSVA_ROOT"
	for package in vhost-user-vsva vsva-kernel-rig; do
		RUSTFLAGS='-C target-feature=+crt-static' \
			watched "rig native" 1/1 "$log" "cargo build $package" numbered "$(rust_crates)" \
			cargo build --locked --release --target "$target" --package "$package" --bins ||
			die "$package could not be built"
	done
	printf '%s\n' "${CARGO_TARGET_DIR:-$VSVA_ROOT/target}/$target/release"
}
