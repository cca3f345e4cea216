# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# The backend on a kernel's own fault queue, and its test-suite on arm64.

. "$VSVA_TEST_VM/lib/rig.sh"

needs()
{
	setup_packages "${PACKAGES_RIG[@]}"
	rust_need
	rig_prefetch
	RIG_TOOLCHAIN=$(rig_toolchain)
	RIG_KERNEL_ARM64=$(rig_kernel arm64 "$RIG_TOOLCHAIN")/kernel
	RIG_KERNEL_X86=$(rig_kernel x86_64 "$RIG_TOOLCHAIN")/kernel
	RIG_EMULATORS=$(rig_emulators)
	RIG_PYTHON=$(rig_python)/root
	RIG_ARM64=$(rig_programs_arm64 "$RIG_TOOLCHAIN")
	RIG_NATIVE=$(rig_programs_native)
	RIG_QEMU=$(qemu_patched)/build/qemu-system-aarch64
	wait
}

# rig_run NAME ARGUMENT...: one machine; a result for each of its checks
rig_run()
{
	rig_script run.d "$@"
}

# rig_script SCRIPT NAME ARGUMENT...
rig_script()
{
	local script=$1 name=$2 out=$VSVA_OUT/kernel/$2 status=0 word check note

	shift 2
	rm -rf "$out"
	mkdir -p "$out"
	step kernel "$name" "booting"
	python3 -B "$RIG/$script" --out "$out" "$@" >"$out/report" 2>&1 </dev/null || status=$?
	cat "$out/report" >&2
	while IFS=$'\t' read -r word check note; do
		result "$word" "$name $check" "$note"
	done <"$out/results.tsv"
	[ $status -eq 0 ] || keep_log "$name" "$out"
}

# Lines of a test program as results.
rig_test_lines()
{
	local line

	while IFS= read -r line; do
		[[ $line =~ (^|\ )test\ ([^ ]+)\ \.\.\.\ (ok|FAILED|ignored) ]] || continue
		case ${BASH_REMATCH[3]} in
		ok) result pass "arm64 ${BASH_REMATCH[2]}" ;;
		FAILED) result fail "arm64 ${BASH_REMATCH[2]}" ;;
		ignored) result skip "arm64 ${BASH_REMATCH[2]}" ignored ;;
		esac
	done <"$1"
}

# The crate's tests for arm64, under QEMU's user emulation: what runs within one
# process. User emulation has no seccomp, does not start arm64 programs, and there
# is no /proc.
rig_user_tests()
{
	local log=$VSVA_OUT/kernel/arm64-tests.log status=0
	local again=test_cookie_read_again_before_its_answer_is_recorded_is_a_new_fault

	cp "$RIG_EMULATORS/qemu-aarch64" "$RIG_TOOLCHAIN/root/build"
	: >"$log"
	watched kernel arm64-tests "$log" "cargo test for arm64:" \
		rig_cargo "$RIG_TOOLCHAIN" test --release --no-fail-fast \
		--package vhost-user-vsva --lib --test core_no_alloc --test fuzz_inputs -- --skip sandbox:: \
		--skip "backend::channels::traffic::tests::$again" ||
		status=$?
	rig_test_lines "$log"
	if [ $status -ne 0 ]; then
		result fail "arm64 cargo test" "it ended with status $status"
		keep_log arm64-tests.log "$log"
	fi
}

# The others, which start back-ends and confine themselves, on the arm64 kernel,
# and once more those of the crate itself. Five need programs that it has not, and those of the
# recovery start a process some thousand times.
rig_kernel_tests()
{
	local log=$VSVA_OUT/kernel/arm64-suites.log suite suites=()

	: >"$log"
	watched kernel arm64-suites "$log" "cargo test --no-run for arm64" numbered "$(rust_crates)" \
		rig_cargo "$RIG_TOOLCHAIN" test --release --no-run \
		--package vhost-user-vsva --lib --test protocol
	while read -r suite; do
		suites+=(--suite "$RIG_TOOLCHAIN/root/$suite")
	done < <(sed -nE 's,.* Executable (unittests src/lib|tests/protocol/main)\.rs \((.*)\)$,\2,p' \
		"$log")
	# Without any, the machine would run the checks once more.
	[ ${#suites[@]} -eq 4 ] || die "cargo did not name the test programs"
	rig_run suites "$@" "${suites[@]}" \
		--backend-path "/build/target/$RIG_TARGET/release/vhost-user-vsva" \
		--skip process::test_socket_from_systemd_is_served \
		--skip process::test_start_with_any_limit_of_open_files_leaves_no_socket_when_it_has_ended \
		--skip process::test_signal_that_was_ignored_at_the_start_stays_ignored \
		--skip faults::test_end_of_the_owner_process_loses_its_devices \
		--skip logs::test_files_that_are_as_large_as_they_may_be_do_not_end_the_process \
		--skip shell::test_client_without_descriptors_to_serve_it_is_hung_up_on \
		--skip shell::test_connection_that_cannot_be_started_leaves_no_descriptor_behind \
		--skip recovery:: \
		--skip report::test_output_that_is_as_large_as_it_may_be_is_an_error_and_leaves_nothing \
		--skip status::test_idle_connections_of_any_number_let_a_request_through \
		--skip status::test_status_socket_from_systemd_is_served_whatever_its_place \
		--skip status::test_dashboard_and_alerts_name_only_metrics_that_a_back_end_has
}

run()
{
	local defect nested=(--machine nested --qemu "$RIG_QEMU" --kernel "$RIG_KERNEL_ARM64"
		--rig "$RIG_ARM64/vsva-kernel-rig" --backend "$RIG_ARM64/vhost-user-vsva")

	rig_run mock --machine mock --qemu "$RIG_EMULATORS/qemu-system-x86_64" --kernel "$RIG_KERNEL_X86" \
		--rig "$RIG_NATIVE/vsva-kernel-rig" --backend "$RIG_NATIVE/vhost-user-vsva"
	rig_run nested "${nested[@]}" --stall on
	rig_run nested-forced "${nested[@]}" --stall force
	for defect in attach-without-sva stall-during-detach; do
		rig_run "$defect" "${nested[@]}" --defect "$defect"
	done
	rig_script run.d/check_device.py check-device --qemu "$RIG_QEMU" --kernel "$RIG_KERNEL_ARM64" \
		--python "$RIG_PYTHON"
	rig_kernel_tests "${nested[@]}"
	rig_user_tests
}
