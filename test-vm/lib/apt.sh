# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Files of other Debian releases than the machine's own, from the mirror and by
# the keyring that the machine uses, without changing the machine's apt.

# Of this machine's own release: URI and keyring (or -) of each repository.
apt_repositories()
{
	local VERSION_CODENAME='' uri entry keyring

	# shellcheck source=/dev/null
	. /etc/os-release
	apt-get indextargets --no-release-info \
		--format '$(RELEASE) $(COMPONENT) $(REPO_URI) $(SOURCESENTRY)' \
		'Created-By: Packages' |
		awk -v release="$VERSION_CODENAME" \
			'$1 == release && $2 == "main" && !seen[$3]++ { print $3, $4 }' |
		while read -r uri entry; do
			keyring=$(apt_entry_keyring "${entry%:*}")
			printf '%s %s\n' "$uri" "${keyring:--}"
		done
}

# The keyring that a sources file names, in either format, or Debian's own.
apt_entry_keyring()
{
	local keyring

	for keyring in \
		"$(sed -nE 's/.*[Ss]igned-[Bb]y *[:=] *(\/[^] ]+).*/\1/p' "$1" 2>/dev/null | head -n 1)" \
		/usr/share/keyrings/debian-archive-keyring.gpg; do
		if [ -n "$keyring" ] && [ -r "$keyring" ]; then
			printf '%s\n' "$keyring"
			return
		fi
	done
}

# private_apt FOLDER TOOL ARGUMENT...: an old list of files is good enough, as what
# it is used for is pinned by hash or never expires. Packages are for APT_ARCHITECTURE, if that
# is set.
private_apt()
{
	local folder=$1 tool=$2 architecture=()

	shift 2
	[ -z "${APT_ARCHITECTURE:-}" ] || architecture=(-o "APT::Architecture=$APT_ARCHITECTURE"
		-o "APT::Architectures=$APT_ARCHITECTURE" -o "APT::Architectures::=$APT_ARCHITECTURE")
	"$tool" -q "${architecture[@]}" -o Dir::Etc::SourceList="$folder/sources.list" \
		-o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$folder/lists" \
		-o Dir::Cache="$folder/cache" -o APT::Sandbox::User="$(id -un)" \
		-o Acquire::Languages=none -o Acquire::Retries=3 \
		-o Acquire::Check-Valid-Until=false "$@"
}

# apt_try FOLDER URI KEYRING TYPE SUITE TOOL ARGUMENT...
apt_try()
{
	local folder=$1 uri=$2 keyring=$3 type=$4 suite=$5 signed='' target=Packages

	shift 5
	rm -rf "$folder/lists" "$folder/cache"
	mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
	[ "$keyring" = - ] || signed=" signed-by=$keyring"
	[ "$type" = deb ] || target=Sources
	printf '%s [target=%s%s] %s %s main\n' "$type" "$target" "$signed" "$uri" "$suite" \
		>"$folder/sources.list"
	private_apt "$folder" apt-get -o APT::Update::Error-Mode=any update &&
		(cd "$folder/files" && private_apt "$folder" "$@")
}

# apt_fetch FOLDER LOG TYPE SUITE TOOL ARGUMENT...: puts what TOOL downloads into FOLDER
apt_fetch()
{
	local destination=$1 log=$2 private uri keyring

	shift 2
	private=$(mktemp -d "$VSVA_CACHE/tmp.XXXXXX")
	while read -r uri keyring; do
		mkdir -p "$private/files"
		if apt_try "$private" "$uri" "$keyring" "$@" >>"$log" 2>&1 </dev/null; then
			mv "$private/files"/* "$destination"
			rm -rf "$private"
			return
		fi
	done < <(apt_repositories)
	rm -rf "$private"
	return 1
}
