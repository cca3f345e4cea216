# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Debian packages of the machine itself.

PACKAGES_BUILD=(build-essential bc bison dpkg-dev flex git ninja-build patch pkg-config
	python3 python3-venv xz-utils libfdt-dev libglib2.0-dev libpixman-1-dev)
PACKAGES_DEB=(debhelper dh-apparmor dpkg-dev git python3)
PACKAGES_LINTIAN=(lintian man-db)
PACKAGES_CROSS=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
PACKAGES_GUEST=(build-essential bc bison dpkg-dev flex xz-utils "${PACKAGES_CROSS[@]}")
PACKAGES_PYTHON=(ca-certificates python3 python3-venv)
PACKAGES_CHECKPATCH=(git perl)
PACKAGES_CHECKPATCH_EACH=(ccache)
PACKAGES_LIBVIRT=(debootstrap e2fsprogs iproute2 util-linux)
PACKAGES_RIG=(debootstrap xz-utils)
PACKAGES_BENCH=(python3 qemu-utils util-linux)
PACKAGES_COUNTS=(python3 strace valgrind)
PACKAGES_RUST=(ca-certificates gcc libc6-dev)
PACKAGES_CARGO=(cargo rust-clippy rustc rustfmt)
# Debian 12 has two versions, the new one under another name.
if grep -qs '^VERSION_CODENAME=bookworm' /etc/os-release; then
	PACKAGES_CARGO=(cargo-web rust-web-clippy rustc-web rustfmt-web)
fi

as_root()
{
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		if [ -t 0 ]; then sudo "$@"; else sudo -n "$@"; fi
	else
		die "neither root nor sudo: cannot run $*"
	fi
}

packages_missing()
{
	local package

	for package in "$@"; do
		dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null |
			grep -qx installed || printf '%s\n' "$package"
	done
}

packages_need_debian()
{
	local ID='' VERSION_CODENAME=''

	# shellcheck source=/dev/null
	. /etc/os-release
	case $ID-$VERSION_CODENAME in
	debian-bookworm | debian-trixie) ;;
	*) die "this is $ID $VERSION_CODENAME; the set-up knows Debian 12 and 13" ;;
	esac
}

# packages_install PACKAGE...: what of it is missing
packages_install()
{
	local log=$VSVA_CACHE/packages.log missing

	mapfile -t missing < <(packages_missing "$@" | sort -u)
	[ ${#missing[@]} -gt 0 ] || return 0
	packages_need_debian
	: >"$log"
	packages_update "$log"
	packages_fit "${missing[@]}"
	# Another apt, at boot for example, may be at work.
	step packages 2/2 "apt-get install ${missing[*]}"
	watched packages 2/2 "$log" "installing ${#missing[@]} packages and theirs" \
		as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
		--no-install-recommends --no-remove -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=600 \
		install "${missing[@]}" || die "apt-get install ${missing[*]} failed; the whole log: $log"
}

# packages_simulate OPTION... PACKAGE...: what apt-get would do, without doing it
packages_simulate()
{
	apt-get -q -s --no-install-recommends --no-remove -o Debug::NoLocking=1 install "$@" \
		2>&1 </dev/null
}

# packages_wait: until no other apt is at work. It takes the lock that a simulation does not take.
packages_wait()
{
	as_root apt-get -q -o DPkg::Lock::Timeout=600 check >/dev/null 2>&1 </dev/null || true
}

# packages_conflicts: of what apt-get says, the lines that name what does not fit
packages_conflicts()
{
	sed -n '/^The following packages have unmet dependencies:/,/^E:/p
		/^The following packages will be REMOVED:/,/^The following [^p]/{/^The following [^p]/!p}
		/^E: /,$p' | awk 'NF && !seen[$0]++'
}

# packages_fit PACKAGE...: whether they can be beside what the machine has. If not, what is in
# the way, and what there is to do; nothing has been changed then.
packages_fit()
{
	local said release

	said=$(packages_simulate "$@") && return
	# Another one at work leaves packages half installed, until it has ended.
	packages_wait
	said=$(packages_simulate "$@") && return
	say "These packages are needed, and cannot be installed beside what this machine has: $*"
	say "apt-get says:"
	say "$(packages_conflicts <<<"$said")"
	for release in $(packages_releases); do
		if packages_simulate -t "$release" "$@" >/dev/null; then
			say "What would do, and removes nothing: apt-get install --no-install-recommends -t $release $*"
			die "nothing was installed"
		fi
	done
	say "What would do: the versions of this release for the packages that are in the way, or"
	say "a machine or container with a plain Debian 12 or 13."
	die "nothing was installed"
}

# The releases that the machine's apt knows.
packages_releases()
{
	apt-get indextargets --no-release-info --format '$(RELEASE)' 'Created-By: Packages' | sort -u
}

# apt-get update does not wait by itself for another one.
packages_update()
{
	local log=$1 try

	for ((try = 1; ; try++)); do
		step packages 1/2 "apt-get update"
		as_root apt-get -q update >"$log" 2>&1 </dev/null && return
		if [ $try -ge 60 ] || ! grep -q '^E: Could not get lock' "$log"; then
			show_log "$log"
			die "apt-get update failed"
		fi
		step packages 1/2 "waiting: $(sed -n '/^E: Could not get lock/{s/^E: //p;q}' "$log")"
		sleep 10
	done
}
