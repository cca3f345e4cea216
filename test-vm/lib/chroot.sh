# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Programs in another Debian's root folder.

# with_proc ROOT COMMAND...: runs it in ROOT, with a /proc there. In a mount namespace of its own,
# so that the mount goes away whatever happens; there can be none where / is no mount point, as in
# a chroot: there it is unmounted at the end.
with_proc()
{
	local privately=(unshare --mount)

	as_root unshare --mount true 2>/dev/null || privately=()
	# shellcheck disable=SC2016
	as_root "${privately[@]}" /bin/sh -ec '
		mount -t proc proc "$1/proc"
		trap "umount \"\$1/proc\"" EXIT
		chroot "$@"' sh "$@"
}
