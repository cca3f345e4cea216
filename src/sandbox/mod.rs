// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Giving up what the process does not need, before the first byte of a peer is read.

mod seccomp;

use std::path::Path;

use landlock::{
    Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, ABI,
};
use rustix::{
    thread::{
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs, CapabilitySet, CapabilitySets,
    },
    time::{clock_gettime, ClockId},
};
use thiserror::Error;

/// How to confine the process besides seccomp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxMode {
    /// Landlock as far as the kernel has it, and no capabilities.
    Landlock,
    /// Only no new privileges.
    None,
}

/// What to do about a system call that the program does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeccompAction {
    /// No filter.
    None,
    /// End the process.
    Kill,
    /// Allow it, and let the kernel log it.
    Log,
    /// Send SIGSYS.
    Trap,
}

/// The process could not be confined.
#[derive(Debug, Error)]
#[error("Cannot confine the process ({what}): {reason}; see --sandbox and --seccomp")]
pub struct SandboxError {
    /// The mechanism that failed.
    pub what: &'static str,
    /// Why.
    pub reason: String,
}

/// Confines the process. Must be called while it has one thread only, after everything is open.
///
/// `socket` is the socket file that the process removes when it ends.
pub fn enter<'a>(
    mode: SandboxMode,
    seccomp: SeccompAction,
    files: impl IntoIterator<Item = &'a Path>,
) -> Result<(), SandboxError> {
    let failed = |what, reason: &dyn std::fmt::Display| SandboxError {
        what,
        reason: reason.to_string(),
    };
    // Before Linux 6.4 rustix opens /proc/self/auxv when it looks for the vDSO, at the first use of
    // a clock.
    let _ = clock_gettime(ClockId::Monotonic);
    set_no_new_privs(true).map_err(|e| failed("no_new_privs", &e))?;
    if mode == SandboxMode::Landlock {
        restrict_access(files).map_err(|e| failed("Landlock", &e))?;
        drop_capabilities().map_err(|e| failed("capabilities", &e))?;
    }
    seccomp::install(seccomp).map_err(|e| failed("seccomp", &e))
}

fn restrict_access<'a>(
    files: impl IntoIterator<Item = &'a Path>,
) -> Result<(), Box<dyn std::error::Error>> {
    let abi = ABI::V6;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    // Removing the socket files at the end is all that is left to do with the file system.
    for path in files {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // Without it the socket would stay when the process ends.
        let folder = PathFd::new(folder)?;
        ruleset = ruleset.add_rule(PathBeneath::new(folder, AccessFs::RemoveFile))?;
    }
    let status = ruleset.restrict_self()?.ruleset;
    if status == RulesetStatus::NotEnforced {
        log::warn!("the kernel has no Landlock: access to the file system is not restricted");
    }
    Ok(())
}

fn drop_capabilities() -> rustix::io::Result<()> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    // Only possible, and only needed, with CAP_SETPCAP; without new privileges by execve() the
    // bounding set has no effect otherwise.
    for capability in CapabilitySet::all().iter() {
        let _ = remove_capability_from_bounding_set(capability);
    }
    clear_ambient_capability_set()?;
    set_capabilities(None, none)
}

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        os::unix::net::UnixListener,
        process::{Command, Stdio},
    };

    use super::*;

    const ROLE: &str = "VSVA_SANDBOX_TEST";

    /// What a process with the role does: it gives everything up but the removal of its socket.
    fn play(socket: &Path) {
        let before = fs::read("/proc/self/status").is_ok();
        enter(SandboxMode::Landlock, SeccompAction::None, Some(socket)).unwrap();

        assert!(before);
        fs::read("/proc/self/status").unwrap_err();
        fs::write(socket.with_extension("new"), "").unwrap_err();
        UnixListener::bind(socket.with_extension("other")).unwrap_err();
        Command::new("/bin/true").status().unwrap_err();
        fs::remove_file(socket).unwrap();
    }

    #[test]
    fn test_enter_with_landlock_leaves_only_the_removal_of_the_socket() {
        if let Some(socket) = env::var_os(ROLE) {
            play(Path::new(&socket));
            return;
        }
        // Without Landlock in the kernel there is nothing to see.
        let abi = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(ABI::V1))
            .and_then(Ruleset::create);
        if abi.is_err() {
            eprintln!("skipped: the kernel has no Landlock");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vsva.sock");
        let _listener = UnixListener::bind(&socket).unwrap();

        let status = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "sandbox::tests::test_enter_with_landlock_leaves_only_the_removal_of_the_socket",
                "--nocapture",
            ])
            .env(ROLE, &socket)
            .stdout(Stdio::null())
            .status()
            .unwrap();

        assert!(status.success());
        assert!(!socket.exists());
    }
}
