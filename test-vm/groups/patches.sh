# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# The QEMU series, patch by patch: it applies by git am, it is written as QEMU
# wants it, and, with VSVA_CHECK_EACH_PATCH=1, all of QEMU builds after each patch.

needs()
{
	packages_install "${PACKAGES_BUILD[@]}" "${PACKAGES_PYTHON[@]}" \
		"${PACKAGES_CHECKPATCH[@]}"
	if [ -n "${VSVA_CHECK_EACH_PATCH:-}" ]; then
		packages_install "${PACKAGES_CHECKPATCH_EACH[@]}"
	fi
	qemu_source >/dev/null
}

# Every file that the patch adds, except generated and data files, names its licence.
patch_has_licences()
{
	awk '
		/^diff --git / { finish(); file = substr($NF, 3); new = 0; found = 0 }
		/^new file mode / { new = 1 }
		/^\+.*SPDX-License-Identifier:/ { found = 1 }
		function finish() {
			if (file && new && !found) {
				print file " has no SPDX line"; bad = 1
			}
		}
		END { finish(); exit bad }' "$1"
}

patch_is_signed()
{
	local author

	author=$(git mailinfo /dev/null /dev/null <"$1" |
		awk -F ': ' '$1 == "Author" { name = $2 } $1 == "Email" { print name " <" $2 ">" }')
	if ! grep -qxF "Signed-off-by: $author" "$1"; then
		echo "not signed off by its author, $author"
		return 1
	fi
}

patch_applies()
{
	git -C "$1" am -q --whitespace=error-all "$2" && return
	git -C "$1" am --abort
	return 1
}

patch_passes_checkpatch()
{
	(cd "$1" && perl scripts/checkpatch.pl --no-signoff "$2")
}

make_repository()
{
	local tree=$1

	cp -al "$(qemu_source)/tree" "$tree"
	git -C "$tree" init -q
	git -C "$tree" config user.name vsva
	git -C "$tree" config user.email vsva@localhost
	git -C "$tree" config gc.auto 0
	git -C "$tree" add -A -f
	git -C "$tree" commit -q -m "QEMU as in Debian"
}

run()
{
	local work series patch name

	mapfile -t series < <(qemu_series)
	if [ ${#series[@]} -eq 0 ]; then
		result skip series "there are no patches"
		return
	fi
	work=$(mktemp -d "$VSVA_CACHE/tmp.XXXXXX")
	# shellcheck disable=SC2064
	trap "rm -rf '$work'" EXIT
	step "$GROUP" test "making a repository to apply ${#series[@]} patches to"
	make_repository "$work/tree"
	for patch in "${series[@]}"; do
		name=${patch##*/}
		run_test "$name applies" patch_applies "$work/tree" "$patch"
		run_test "$name checkpatch" patch_passes_checkpatch "$work/tree" "$patch"
		run_test "$name licences" patch_has_licences "$patch"
		run_test "$name signed off" patch_is_signed "$patch"
	done
	if [ -n "${VSVA_CHECK_EACH_PATCH:-}" ]; then
		each_patch_builds "$work" "${series[@]}"
	fi
}

# patch_builds BUILD PATCH LOG: all of QEMU's programs and tests, and no warning
patch_builds()
{
	patch -d "$1/../src" -p1 -F0 -s --no-backup-if-mismatch -i "$2" &&
		ninja -C "$1" -j "$VSVA_JOBS" | tee "$3" &&
		! grep -F 'warning:' "$3"
}

# With ccache, as many patches touch a header that most files include.
each_patch_builds()
{
	local work=$1 venv patch log=$1/each.log

	shift
	venv=$(venv_path build)
	mkdir "$work/each"
	: >"$log"
	CC='ccache gcc' "$VSVA_TEST_VM/make/qemu" "$work/each" "$log" each-patch \
		"$(qemu_source)" "$venv"
	run_test "unpatched builds" ninja -C "$work/each/build" -j "$VSVA_JOBS"
	for patch in "$@"; do
		run_test "${patch##*/} builds" patch_builds "$work/each/build" "$patch" "$log"
	done
}
