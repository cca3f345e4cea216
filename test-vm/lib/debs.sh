# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Debian packages unpacked into a folder of the cache. What is used this way may not
# fit beside what the machine has: its QEMU may come from backports, for example.

# The release they are of, on every machine.
DEBS_SUITE=trixie

# apt_closure OPTION... install PACKAGE...: a tool of apt_fetch for the packages and all that
# they need, as if nothing was installed here
apt_closure()
{
	mkdir partial
	apt-get -y --no-install-recommends --download-only -o Debug::NoLocking=1 \
		-o Dir::State::status=/dev/null -o Dir::Cache::archives="$PWD" "$@" &&
		rmdir partial && rm -f lock
}

# debs_unpack FOLDER LOG TOOL COMMAND PACKAGE...: FOLDER/root and FOLDER/VERSIONS. TOOL and
# COMMAND are apt_closure install, or apt-get download for the packages alone.
debs_unpack()
{
	local folder=$1 log=$2 deb

	shift 2
	mkdir "$folder/debs" "$folder/root"
	apt_fetch "$folder/debs" "$log" deb "$DEBS_SUITE" "$@" || {
		show_log "$log"
		die "the mirror of this machine's apt did not give ${*:3} of Debian $DEBS_SUITE"
	}
	for deb in "$folder"/debs/*.deb; do
		dpkg-deb -W --showformat '${Package} ${Version}\n' "$deb" >>"$folder/VERSIONS"
		logged "$log" dpkg-deb -x "$deb" "$folder/root"
	done
	rm -r "$folder/debs"
}
