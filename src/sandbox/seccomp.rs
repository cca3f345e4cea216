// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The system calls that the program needs once it is set up.

use std::{collections::BTreeMap, io};

use seccompiler::{
    apply_filter, BpfProgram, SeccompAction as Action, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule,
};

use super::SeccompAction;

/// How rustix finds the vDSO; the libc crate does not have it.
const PR_GET_AUXV: libc::c_int = 0x4155_5856;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Installs the filter for this thread and those it starts.
pub fn install(action: SeccompAction) -> io::Result<()> {
    let forbidden = match action {
        SeccompAction::None => return Ok(()),
        SeccompAction::Kill => Action::KillProcess,
        SeccompAction::Log => Action::Log,
        SeccompAction::Trap => Action::Trap,
    };
    // Where two filters disagree the stricter one wins, and an error is stricter than to allow.
    apply(absent(), Action::Allow, Action::Errno(libc::ENOSYS as u32))?;
    apply(
        needed().map_err(io::Error::other)?,
        forbidden,
        Action::Allow,
    )
}

fn apply(rules: Rules, other: Action, listed: Action) -> io::Result<()> {
    let target = std::env::consts::ARCH
        .try_into()
        .map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, other, listed, target).map_err(io::Error::other)?;
    let program = BpfProgram::try_from(filter).map_err(io::Error::other)?;
    apply_filter(&program).map_err(io::Error::other)
}

/// What the C library tries, but does without.
fn absent() -> Rules {
    // Its arguments are in memory, where a filter cannot see them; clone() is used instead.
    const CLONE: i64 = libc::SYS_clone3;
    // Number of processors, time zone, back-traces.
    const OPEN: i64 = libc::SYS_openat;
    // Back-traces, of which one comes with every allocation that fails.
    const WHERE: i64 = libc::SYS_getcwd;
    [CLONE, OPEN, WHERE]
        .into_iter()
        .map(|call| (call, Vec::new()))
        .collect()
}

fn needed() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = PLAIN.iter().map(|call| (*call, Vec::new())).collect();
    // The other filter sees to these.
    rules.extend(absent());
    // Threads, no processes.
    rules.insert(
        libc::SYS_clone,
        vec![flags_set(0, libc::CLONE_THREAD | libc::CLONE_VM)?],
    );
    // No code is made or loaded any more.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![flags_clear(2, libc::PROT_EXEC)?]);
    }
    rules.insert(
        libc::SYS_fcntl,
        one_of(
            1,
            &[
                libc::F_DUPFD_CLOEXEC,
                libc::F_GETFD,
                libc::F_SETPIPE_SZ,
                libc::F_SETFD,
                libc::F_GETFL,
                libc::F_SETFL,
                libc::F_GET_SEALS,
            ],
        )?,
    );
    rules.insert(
        libc::SYS_prctl,
        one_of(0, &[libc::PR_SET_NAME, libc::PR_SET_VMA, PR_GET_AUXV])?,
    );
    // The attach channel.
    rules.insert(libc::SYS_socketpair, one_of(0, &[libc::AF_UNIX])?);
    Ok(rules)
}

const PLAIN: &[i64] = &[
    // Rings, fault channels, event log.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    // vhost-user and attach channel, both with descriptors.
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    // What kind of descriptor it is.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getsockopt,
    libc::SYS_getpeername,
    libc::SYS_waitid,
    libc::SYS_close,
    // Waiting.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_futex,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_sched_yield,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_getrandom,
    // Threads.
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    // The end, also by abort().
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_tgkill,
    // The socket file.
    libc::SYS_statx,
    libc::SYS_newfstatat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    libc::SYS_unlinkat,
];

fn flags_set(arg: u8, flags: libc::c_int) -> Result<SeccompRule, seccompiler::BackendError> {
    let flags = u64::from(flags as u32);
    condition(arg, SeccompCmpOp::MaskedEq(flags), flags)
}

fn flags_clear(arg: u8, flags: libc::c_int) -> Result<SeccompRule, seccompiler::BackendError> {
    condition(arg, SeccompCmpOp::MaskedEq(u64::from(flags as u32)), 0)
}

fn one_of(arg: u8, values: &[libc::c_int]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    values
        .iter()
        .map(|value| condition(arg, SeccompCmpOp::Eq, u64::from(*value as u32)))
        .collect()
}

fn condition(
    arg: u8,
    op: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(
        arg,
        SeccompCmpArgLen::Dword,
        op,
        value,
    )?])
}

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        net::TcpListener,
        os::unix::process::ExitStatusExt,
        process::{self, Command, ExitStatus, Stdio},
        thread,
    };

    use rustix::time::{clock_gettime, ClockId};

    use super::*;
    use crate::sandbox::{enter, SandboxMode};

    const ROLE: &str = "VSVA_SECCOMP_TEST";
    /// The status of a role played to its end; the harness has none like it.
    const PLAYED: i32 = 42;

    /// Runs a test once more, in a process of its own that plays a role: see [`play`].
    fn run_as(test: &str, role: &str) -> ExitStatus {
        let test = format!("sandbox::seccomp::tests::{test}");
        Command::new(env::current_exe().unwrap())
            .args(["--exact", &test, "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::null())
            .status()
            .unwrap()
    }

    /// As before Linux 6.4.
    fn take_get_auxv_away() {
        let rule = condition(0, SeccompCmpOp::Eq, PR_GET_AUXV as u64).unwrap();
        let rules = Rules::from([(libc::SYS_prctl, vec![rule])]);
        let error = Action::Errno(libc::EINVAL as u32);
        apply(rules, Action::Allow, error).unwrap();
    }

    /// Does not return in a process that has a role.
    fn play() {
        let Ok(role) = env::var(ROLE) else {
            return;
        };
        if role == "clock" {
            take_get_auxv_away();
            enter(SandboxMode::None, SeccompAction::Kill, None).unwrap();
            let _ = clock_gettime(ClockId::Monotonic);
            process::exit(PLAYED);
        }
        let action = if role.ends_with("-log") {
            SeccompAction::Log
        } else {
            SeccompAction::Kill
        };
        install(action).unwrap();
        match role.split('-').next() {
            Some("socket") => drop(TcpListener::bind("127.0.0.1:0")),
            Some("process") => drop(Command::new("/bin/true").status()),
            Some("open") => {
                let error = fs::File::open("/etc/hostname").unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
            }
            Some("thread") => thread::spawn(|| ()).join().unwrap(),
            Some("memory") => {
                let huge = std::alloc::Layout::from_size_align(1 << 46, 16).unwrap();
                let failed = move || std::alloc::handle_alloc_error(huge);
                thread::spawn(failed).join().unwrap();
            }
            _ => {}
        }
        // Without the test harness, which does other things.
        process::exit(PLAYED);
    }

    #[test]
    fn test_filter_with_forbidden_call_kills_the_process() {
        play();
        for role in ["socket", "process"] {
            let status = run_as("test_filter_with_forbidden_call_kills_the_process", role);
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{role}");
        }
    }

    #[test]
    fn test_filter_with_needed_calls_lets_them_pass() {
        play();
        for role in ["open", "thread", "nothing", "socket-log"] {
            let status = run_as("test_filter_with_needed_calls_lets_them_pass", role);
            assert_eq!(status.code(), Some(PLAYED), "{role}");
        }
    }

    #[test]
    fn test_filter_without_memory_lets_the_process_abort() {
        play();
        let status = run_as(
            "test_filter_without_memory_lets_the_process_abort",
            "memory",
        );
        assert_eq!(status.signal(), Some(libc::SIGABRT));
    }

    #[test]
    fn test_clock_on_a_kernel_without_get_auxv_can_be_read() {
        play();
        let status = run_as(
            "test_clock_on_a_kernel_without_get_auxv_can_be_read",
            "clock",
        );
        assert_eq!(status.code(), Some(PLAYED));
    }
}
