// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU's trace log (`-D FILE -trace ... -msg timestamp=on`): a time stamp and a trace event a
//! line.

use super::Place;

/// A step of one vhost-user-vsva device. Named as the trace events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Connected {
        max_pending: u64,
        /// Of the back-end; bit 0: it can be asked for a drain.
        features: u64,
        /// The VM is not stopped before it has been drained; older traces do not say so.
        drain: Option<bool>,
    },
    BackendGone,
    ClientAttach {
        device: u32,
        sid: u32,
    },
    ClientDetach {
        device: u32,
    },
    ClientReset {
        device: u32,
    },
    DrainStart {
        generation: u64,
        timeout_ms: u64,
    },
    PortalTrap {
        device: u32,
        on: bool,
    },
    State {
        from: u32,
        to: u32,
    },
    Quiesced {
        device: u32,
        generation: u64,
    },
    Drained {
        generation: u64,
    },
    DrainedExpired {
        generation: u64,
    },
    DrainFailed {
        generation: u64,
        reason: Reason,
    },
    Release {
        generation: u64,
        pending: u64,
    },
    ReleaseTakenBack,
    Released {
        generation: u64,
        next: u64,
        own: u64,
    },
    Submit {
        device: u32,
        ticket: u64,
    },
    Replay {
        device: u32,
        ticket: u64,
        dropped: bool,
    },
    SmmuEvent {
        device: u32,
        sid: u32,
        delivered: bool,
        /// Its type, and whether it is a stall; older traces do not have them.
        kind: Option<(u32, bool)>,
    },
    Saved {
        generation: u64,
        next: u64,
    },
    Loaded(Loaded),
}

/// Why a drain has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The front end's own reason.
    Own,
    /// DRAIN_FAILED.
    BackEnd,
    /// Faults were outstanding for too long: DRAIN_FAILED if the time is the drain's, else a `stop`
    /// that waited.
    NotWithin { ms: u64 },
}

/// A state that QEMU has taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub generation: u64,
    pub next: u64,
    pub replayed: u64,
    /// With the back-end's part.
    pub backend: bool,
    pub trapped: bool,
}

/// A step of the whole VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmStep {
    /// runstate_set.
    RunState { from: String, to: String },
    /// vm_state_notify.
    Notify { running: bool, state: String },
    /// vmstate_downtime_save: the first one is of memory.
    LastPass,
    /// savevm_state_cleanup.
    SaveEnds,
    /// loadvm_state_setup: a state is going to be loaded.
    LoadSetup,
    /// vmstate_load of a vhost-user-vsva device.
    LoadBegins,
    /// savevm_state_switchover_ready: somebody has asked the vhost-user-vsva devices.
    Asked,
    /// savevm_state_switchover_end.
    AskedNoMore,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Device { id: String, step: Step },
    Vm(VmStep),
}

/// Numbers are named by the word before them.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn words(&self) -> impl Iterator<Item = &'a str> {
        self.0
            .split([' ', ',', '=', ':', '(', ')'])
            .filter(|word| !word.is_empty())
    }

    fn number(&self, name: &str) -> Result<u64, String> {
        let mut words = self.words();
        let value = words
            .find(|word| *word == name)
            .and_then(|_| words.next())
            .ok_or_else(|| format!("there is no '{name}'"))?;
        let (digits, radix) = match value.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None => (value, 10),
        };
        u64::from_str_radix(digits, radix).map_err(|_| format!("'{name}' is no number"))
    }

    fn small(&self, name: &str) -> Result<u32, String> {
        u32::try_from(self.number(name)?).map_err(|_| format!("'{name}' is too large"))
    }

    fn flag(&self, name: &str) -> Result<bool, String> {
        Ok(self.number(name)? != 0)
    }

    /// The text in the `index`th parentheses.
    fn in_parentheses(&self, index: usize) -> Result<String, String> {
        self.0
            .split('(')
            .nth(index + 1)
            .and_then(|rest| rest.split(')').next())
            .map(str::to_owned)
            .ok_or_else(|| "a state has no name".to_owned())
    }
}

/// What the front end itself gives as reason of a failed drain; the others are the back-end's.
const OWN_REASONS: [&str; 4] = [
    "a device has DMA in flight",
    "the guest has made ",
    "the back-end has not answered ",
    "the back-end has gone",
];

/// 1 to 4 are the reasons of DRAIN_FAILED. Without the number the text must do.
fn reason(f: &Fields) -> Reason {
    let head = Fields(f.0.split(": ").next().unwrap_or_default());
    let by_back_end = match head.number("reason") {
        Ok(number) => number <= 4,
        Err(_) if OWN_REASONS.iter().any(|own| f.0.contains(own)) => false,
        Err(_) => match f.number("within") {
            Ok(ms) => return Reason::NotWithin { ms },
            Err(_) => true,
        },
    };
    match by_back_end {
        true => Reason::BackEnd,
        false => Reason::Own,
    }
}

fn device_step(name: &str, f: &Fields) -> Result<Option<Step>, String> {
    let generation = || f.number("generation");
    let device = || f.small("device");
    Ok(Some(match name {
        "vsva_connected" => Step::Connected {
            max_pending: f.number("pending")?,
            features: f.number("features")?,
            drain: f.flag("drain").ok(),
        },
        "vsva_backend_gone" => Step::BackendGone,
        "vsva_client_attach" => Step::ClientAttach {
            device: device()?,
            sid: f.small("sid")?,
        },
        "vsva_client_detach" => Step::ClientDetach { device: device()? },
        "vsva_client_reset" => Step::ClientReset { device: device()? },
        "vsva_drain_start" => Step::DrainStart {
            generation: generation()?,
            timeout_ms: f.number("timeout")?,
        },
        "vsva_portal_trap" => Step::PortalTrap {
            device: device()?,
            on: f.flag("trap")?,
        },
        "vsva_state" => Step::State {
            // "ID FROM -> TO"
            from: f.small(f.words().next().unwrap_or_default())?,
            to: f.small("->")?,
        },
        "vsva_quiesced" => Step::Quiesced {
            device: device()?,
            generation: generation()?,
        },
        "vsva_drained" => Step::Drained {
            generation: generation()?,
        },
        "vsva_drained_expired" => Step::DrainedExpired {
            generation: generation()?,
        },
        "vsva_drain_failed" => Step::DrainFailed {
            generation: generation()?,
            reason: reason(f),
        },
        "vsva_release" => Step::Release {
            generation: generation()?,
            pending: f.number("pending")?,
        },
        "vsva_release_taken_back" => Step::ReleaseTakenBack,
        "vsva_released" => Step::Released {
            generation: generation()?,
            next: f.number("ticket")?,
            own: f.number("own")?,
        },
        "vsva_submit" => Step::Submit {
            device: device()?,
            ticket: f.number("ticket")?,
        },
        "vsva_replay" => Step::Replay {
            device: device()?,
            ticket: f.number("ticket")?,
            dropped: f.flag("dropped")?,
        },
        "vsva_smmu_event" => Step::SmmuEvent {
            device: device()?,
            sid: f.small("sid")?,
            delivered: f.flag("delivered")?,
            kind: f.small("type").ok().zip(f.flag("stall").ok()),
        },
        "vsva_saved" => Step::Saved {
            generation: generation()?,
            next: f.number("ticket")?,
        },
        "vsva_loaded" => Step::Loaded(Loaded {
            generation: generation()?,
            next: f.number("ticket")?,
            replayed: f.number("replayed")?,
            backend: f.flag("state")?,
            trapped: f.flag("trapped")?,
        }),
        _ => return Ok(None),
    }))
}

fn vm_step(name: &str, f: &Fields) -> Result<Option<VmStep>, String> {
    Ok(Some(match name {
        "runstate_set" => VmStep::RunState {
            from: f.in_parentheses(0)?,
            to: f.in_parentheses(1)?,
        },
        "vm_state_notify" => VmStep::Notify {
            running: f.flag("running")?,
            state: f.in_parentheses(0)?,
        },
        "vmstate_downtime_save" => VmStep::LastPass,
        "savevm_state_cleanup" => VmStep::SaveEnds,
        "loadvm_state_setup" => VmStep::LoadSetup,
        "vmstate_load" if f.words().last() == Some("vhost-user-vsva") => VmStep::LoadBegins,
        "savevm_state_switchover_ready" if f.words().next() == Some("vhost-user-vsva-drain") => {
            VmStep::Asked
        }
        "savevm_state_switchover_end" => VmStep::AskedNoMore,
        _ => return Ok(None),
    }))
}

/// A line of the trace: its time stamp and what it tells of, if it is of interest.
pub fn parse(place: Place<'_>) -> Result<Option<(&str, Event)>, String> {
    let mut words = place.text.splitn(3, ' ');
    let (Some(time), Some(name)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    // Other lines of the log have no time stamp, or a colon after the program's name.
    if !time.starts_with(|c: char| c.is_ascii_digit()) || !time.contains('T') {
        return Ok(None);
    }
    let fields = Fields(words.next().unwrap_or_default());
    if let Some(step) = device_step(name, &fields)? {
        let id = fields.words().next().unwrap_or_default().to_owned();
        return Ok(Some((time, Event::Device { id, step })));
    }
    Ok(vm_step(name, &fields)?.map(|step| (time, Event::Vm(step))))
}
