# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Debian packages of this project: deploy/build-deb and qemu-patches/build --deb.

DEB_FOLDER=${CARGO_TARGET_DIR:-$VSVA_ROOT/target}/debian

# When the sources were last changed: it is the date of all that is in a package.
deb_epoch()
{
	if [ -n "${SOURCE_DATE_EPOCH:-}" ]; then
		echo "$SOURCE_DATE_EPOCH"
	else
		git -C "$VSVA_ROOT" log -1 --format=%ct 2>/dev/null ||
			stat -c %Y "$VSVA_ROOT/CHANGELOG.md"
	fi
}

# That of Cargo.toml. Before CHANGELOG.md has a section for it: with a ~ and the date, so that a
# later one upgrades it, as does the release.
deb_version()
{
	local version

	version=$(sed -nE 's/^version = "([^"]+)"/\1/p' "$VSVA_ROOT/Cargo.toml" | head -n 1)
	if ! grep -qE "^## \[?${version//./\\.}\b" "$VSVA_ROOT/CHANGELOG.md"; then
		version+="~$(date -u -d "@$(deb_epoch)" +%Y%m%d.%H%M%S)"
	fi
	echo "$version"
}

# Who packages it, as Debian's tools have it.
deb_maintainer()
{
	echo "${DEBFULLNAME:-vhost-user-vsva maintainers} <${DEBEMAIL:-maintainers@localhost}>"
}

# deb_tree NAME VERSION FOLDER: a new folder with FOLDER as debian/, and debian/changelog
deb_tree()
{
	local tree=$DEB_FOLDER/$1

	rm -rf "$tree"
	mkdir -p "$tree"
	cp -r "$3" "$tree/debian"
	sed -i "s/@MAINTAINER@/$(deb_maintainer)/" "$tree/debian/control"
	cat >"$tree/debian/changelog" <<END
$1 ($2) unstable; urgency=medium

  * The changes are in changelog.gz.

 -- $(deb_maintainer)  $(date -u -R -d "@$(deb_epoch)")
END
	echo "$tree"
}

# deb_build TREE ARCH NAME=VALUE...: builds the package, and prints its path
deb_build()
{
	local tree=$1 arch=$2 log name

	shift 2
	name=$(basename "$tree")
	log=$DEB_FOLDER/$name.log
	rm -f "$DEB_FOLDER/$name"_*_"$arch".deb
	: >"$log"
	step "$name" deb "dpkg-buildpackage for $arch"
	(
		cd "$tree"
		# What is compiled is compiled before.
		logged "$log" env "$@" SOURCE_DATE_EPOCH="$(deb_epoch)" \
			DEB_BUILD_OPTIONS="nocheck ${DEB_BUILD_OPTIONS:-}" \
			dpkg-buildpackage --build=binary --no-sign --no-check-builddeps --host-arch "$arch"
	) || die "the package could not be built; the whole log: $log"
	echo "$DEB_FOLDER/$name"_*_"$arch".deb
}

# deb_program ARCH: a folder with the program and what is made from its options
deb_program()
{
	local arch=$1 log=$DEB_FOLDER/cargo.log target=$DEB_FOLDER/cargo cargo=${CARGO_HOME:-$HOME/.cargo}

	mkdir -p "$target"
	: >"$log"
	cd "$VSVA_ROOT"
	# In a folder of its own, since other flags make cargo build everything again.
	CARGO_TARGET_DIR=$target \
		RUSTFLAGS="--remap-path-prefix=$cargo/registry/src=/cargo --remap-path-prefix=$VSVA_ROOT=/src" \
		watched package 1/2 "$log" "cargo build" numbered "$(rust_crates)" \
		cargo build --locked --release -p vhost-user-vsva -p vsva-manual --bins ||
		die "the program could not be built"
	logged "$log" "$target/release/vsva-manual" "$DEB_FOLDER/manual"
	if [ "$arch" = "$(dpkg --print-architecture)" ]; then
		echo "$target/release/vhost-user-vsva"
	else
		deb_program_arm64
	fi
}

# A static one, built in the cache's Debian 13: it so runs on Debian 12, too.
deb_program_arm64()
{
	local toolchain log=$DEB_FOLDER/cargo-arm64.log

	RIG_BUILD=build-deb
	packages_install "${PACKAGES_RIG[@]}"
	toolchain=$(rig_toolchain)
	: >"$log"
	logged "$log" rig_copy_source "$toolchain/root"
	watched package arm64 "$log" "cargo build" numbered "$(rust_crates)" \
		rig_cargo "$toolchain" build --release --package vhost-user-vsva --bins ||
		die "the program could not be built for arm64"
	echo "$toolchain/root/$RIG_BUILD/target/$RIG_TARGET/release/vhost-user-vsva"
}

# qemu_deb QEMU ARCH: of what was built of Debian's source package and the series
qemu_deb()
{
	local arch=$2 source tree version

	source=$(qemu_source)
	version=$(awk '$1 == "version" { print $2 }' "$VSVA_PATCHES/SOURCE")
	# 10.2.2 of 1:10.2.2+ds-1: the name is another one than the distribution's.
	tree=$(deb_tree qemu-system-arm-vsva \
		"$(sed -E 's/^[0-9]+://; s/[+-].*//' <<<"$version")+vsva$(deb_version)-1" \
		"$VSVA_PATCHES/debian")
	{
		cat <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Comment: Built from Debian's source package qemu $version
 (apt-get source qemu=$version) and the patches in
 /usr/share/doc/qemu-system-arm-vsva/patches, which are GPL-2.0-or-later; with the
 options of test-vm/make/qemu of the project vhost-user-vsva, whose
 qemu-patches/build fetches, patches and builds it. What follows is the copyright file
 of that source package.
END
		sed 1d "$source/tree/debian/copyright"
	} >"$tree/debian/copyright"
	mapfile -t series < <(qemu_series)
	deb_build "$tree" "$arch" QEMU="$1" PATCHES="${series[*]}"
}
