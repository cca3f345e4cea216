# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# The rig that runs the backend on a kernel's own fault queue.

# Debian's releases that may have the source package, and its name. Another one:
# VSVA_RIG_SUITE=trixie-backports VSVA_RIG_LINUX=linux-source-7.3, for example.
RIG_SUITES=${VSVA_RIG_SUITE:-sid trixie-backports}
RIG_PACKAGE=${VSVA_RIG_LINUX:-linux-source-7.2}
RIG=$VSVA_TEST_VM/kernel-rig
RIG_TARGET=aarch64-unknown-linux-gnu

PACKAGES_RIG=(build-essential bc bison debootstrap flex gcc-aarch64-linux-gnu libelf-dev
	libssl-dev python3 qemu-system-x86 qemu-user-static seabios xz-utils)

rig_source()
{
	local key suite

	key=$(digest_files "$VSVA_TEST_VM/make/linux-source")
	for suite in $RIG_SUITES; do
		(cache_make "$RIG_PACKAGE" "$key" linux-source "$suite" "$RIG_PACKAGE") && return
	done
	die "no $RIG_PACKAGE in $RIG_SUITES: VSVA_RIG_SUITE and VSVA_RIG_LINUX name another release and package"
}

# rig_kernel ARCH: a folder with kernel
rig_kernel()
{
	local arch=$1 source key

	source=$(rig_source)
	key=$({
		cat "$source/VERSION"
		digest_files "$VSVA_TEST_VM/make/rig-kernel" "$RIG/$arch.config"
		cross_compiler
	} | digest)
	cache_make "rig-kernel-$arch" "$key" rig-kernel "$source" "$arch" "$RIG/$arch.config"
}

# A folder with root, in which arm64 programs are built.
rig_toolchain()
{
	cache_make arm64-toolchain "$(digest_files "$VSVA_TEST_VM/make/arm64-toolchain")" arm64-toolchain
}

# Fetches in the background what is needed after the kernels.
rig_prefetch()
{
	(
		rust_fetch &
		rig_toolchain >/dev/null &
		wait
	) &
}

# Puts the crate and the crates it needs into the toolchain's folder.
rig_copy_source()
{
	local root=$1 build=$1/build crates

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
		"/build/vendor-$crates" >"$build/home/config.toml"
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
	as_root chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/build CARGO_HOME=/build/home \
		CARGO_TARGET_DIR=/build/target CARGO_NET_OFFLINE=true \
		"${variable}_LINKER=aarch64-linux-gnu-gcc" \
		"${variable}_RUSTFLAGS=-C target-feature=+crt-static" \
		"${variable}_RUNNER=/build/qemu-aarch64" RUST_TEST_THREADS="$VSVA_JOBS" \
		/bin/sh -ec 'cd /build/src && exec cargo "$@"' cargo \
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
	printf '%s\n' "$toolchain/root/build/target/$RIG_TARGET/release"
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
