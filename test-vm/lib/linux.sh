# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Which of Debian's packages of the kernel's source is taken.

# linux_release PACKAGE: 7.2 of linux-source-7.2; nothing of another name
linux_release()
{
	[[ $1 =~ ^linux-source-([0-9]+(\.[0-9]+)+)$ ]] && printf '%s\n' "${BASH_REMATCH[1]}"
}

# linux_newest OLDEST: of lines "SUITE PACKAGE" those of the release OLDEST or a later one, the
# newest first; of two that are the same release, the one that came first.
linux_newest()
{
	local suite package release

	while read -r suite package; do
		release=$(linux_release "$package") || continue
		dpkg --compare-versions "$release" ge "$1" || continue
		printf '%s %s %s\n' "$release" "$suite" "$package"
	done | sort -s -k1,1 -Vr | cut -d ' ' -f 2-
}

# linux_wanted PACKAGE: the same of lines for PACKAGE, or with a + behind it for that one or
# a later one
linux_wanted()
{
	if [[ $1 = *+ ]]; then
		linux_newest "$(linux_release "${1%+}")"
	else
		awk -v wanted="$1" '$2 == wanted'
	fi
}
