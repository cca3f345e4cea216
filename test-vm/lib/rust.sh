# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# The Rust toolchain and the backend.

rust_minimum()
{
	sed -nE 's/^rust-version *= *"([0-9.]+)".*/\1/p' "$VSVA_ROOT/Cargo.toml"
}

rust_version()
{
	(cd "$VSVA_ROOT" && cargo --version 2>/dev/null) | awk '{ print $2 }'
}

# A toolchain that is there, if only in its usual folder.
rust_find()
{
	local bin=${CARGO_HOME:-$HOME/.cargo}/bin

	if ! command -v cargo >/dev/null && [ -x "$bin/cargo" ]; then
		PATH=$bin:$PATH
	fi
	command -v cargo >/dev/null
}

# The packages that the back-end is built with; with Debian's toolchain if there is none.
rust_packages()
{
	printf '%s\n' "${PACKAGES_RUST[@]}"
	rust_find || printf '%s\n' "${PACKAGES_CARGO[@]}"
}

rust_need()
{
	local minimum version packages

	minimum=$(rust_minimum)
	mapfile -t packages < <(rust_packages)
	packages_install "${packages[@]}"
	rust_find || die "there is no cargo, although its package is installed"
	version=$(rust_version || true)
	if [ "$(printf '%s\n' "$minimum" "${version:-0}" | sort -V | head -n 1)" != "$minimum" ]; then
		die "Rust $minimum or newer is needed, and $(command -v cargo) is" \
			"${version:-not working}; without it Debian's ${PACKAGES_CARGO[0]} is installed"
	fi
}

# rustfmt and clippy, which a minimal toolchain has not.
rust_need_lints()
{
	rust_need
	(cd "$VSVA_ROOT" && cargo fmt --version && cargo clippy --version) >/dev/null 2>&1 && return
	if command -v rustup >/dev/null; then
		logged "$VSVA_CACHE/rustup.log" rustup component add rustfmt clippy ||
			die "rustup could not add rustfmt and clippy"
	else
		packages_install "${PACKAGES_CARGO[@]}"
	fi
}

rust_fetch()
{
	(cd "$VSVA_ROOT" && cargo fetch --locked --quiet)
}

# About how many crates a build consists of.
rust_crates()
{
	cargo tree --locked --prefix none --edges normal,build 2>/dev/null | sort -u | wc -l
}

# rust_program NAME OF [OPTION...]: builds a program in release mode and prints its path.
rust_program()
{
	local log=$VSVA_OUT/$2-build.log

	: >"$log"
	cd "$VSVA_ROOT"
	watched "$2" 1/1 "$log" "cargo build --release" numbered "$(rust_crates)" \
		cargo build --locked --release --bin "$1" "${@:3}" ||
		die "the $2 could not be built"
	printf '%s\n' "${CARGO_TARGET_DIR:-$VSVA_ROOT/target}/release/$1"
}

# Prometheus' own judge of metrics and rules; prints its path.
promtool_program()
{
	printf '%s/promtool\n' "$(cache_make promtool "$(digest_files "$VSVA_TEST_VM/make/promtool" \
		"$VSVA_TEST_VM/lib/debs.sh")" promtool)"
}

rust_backend()
{
	rust_program vhost-user-vsva backend
}

# Checks the traces of the end-to-end tests.
rust_replay()
{
	rust_program vsva-model-replay replay
}
