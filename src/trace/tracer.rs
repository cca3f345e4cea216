// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Moments become packets of a trace. What is known of the past is bounded.

use super::{
    faults::Faults,
    moment::{Moment, What},
    writer::{Name, Value, Writer},
};

/// Makes the trace of a back-end.
pub struct Tracer {
    writer: Writer,
    faults: Faults,
}

impl Tracer {
    /// Of a process; `base` is another number for each trace.
    pub fn new(name: &str, pid: u32, base: u64) -> Self {
        Tracer {
            writer: Writer::new(name, pid, base),
            faults: Faults::default(),
        }
    }

    /// The packets since the last time.
    pub fn take(&mut self) -> Vec<u8> {
        self.writer.take()
    }

    /// What it has made has been lost: all tracks are announced again, and what was open is not
    /// known any more.
    pub fn forget(&mut self) {
        self.writer.forget();
        self.faults.forget();
    }

    /// Takes what has happened.
    pub fn add(&mut self, moment: &Moment) {
        let Some(what) = moment.what() else {
            return;
        };
        let writer = &mut self.writer;
        let t_ns = moment.t_ns;
        match what {
            What::Read => self.faults.read(writer, moment),
            What::Emitted => self.faults.emitted(writer, moment),
            What::Answered => self.faults.answered(writer, moment),
            What::Written => self.faults.written(writer, moment),
            What::Aborted => self.faults.aborted(writer, moment),
            What::Connected => writer.instant(t_ns, Name::FrontEnd, "connected"),
            What::Disconnected => writer.instant(t_ns, Name::FrontEnd, "disconnected"),
            What::Lost => {
                let number = [("events", Value::Number(moment.first))];
                writer.note(t_ns, Name::FrontEnd, "events are missing", &number);
            }
            What::Attached => {
                writer.name_device(moment.device, moment.sid);
                writer.instant(t_ns, Name::Device(moment.device), "attached");
            }
            What::Detached => {
                writer.instant(t_ns, Name::Device(moment.device), "detached");
                self.faults
                    .end_all(writer, moment, |_, fault| fault.device == moment.device);
            }
            What::DeviceReset => writer.instant(t_ns, Name::Device(moment.device), "reset"),
            What::ChannelLost => {
                let number = [("channel", Value::Number(moment.channel.into()))];
                writer.note(t_ns, Name::Backend, "fault channel lost", &number);
                self.faults
                    .end_all(writer, moment, |key, _| key.0 == moment.channel);
            }
            What::Submitted => self.submitted(moment),
            _ => self.migration(what, moment),
        }
    }

    /// Drains, transfers of the state, replays.
    fn migration(&mut self, what: What, moment: &Moment) {
        let writer = &mut self.writer;
        let t_ns = moment.t_ns;
        let generation = ("generation", Value::Number(moment.first));
        let bytes = ("bytes", Value::Number(moment.first));
        let submissions = ("submissions", Value::Number(moment.second));
        let faults = |name| (name, Value::Number(moment.second));
        match what {
            What::DrainBegun => writer.begin(t_ns, Name::Drain, "drain", &[generation]),
            What::DrainResumed => writer.begin(t_ns, Name::Drain, "drain goes on", &[generation]),
            What::Quiesced => {
                let device = ("device", Value::Number(moment.device.into()));
                writer.note(t_ns, Name::Drain, "device at rest", &[generation, device]);
            }
            What::DrainComplete => {
                writer.end(t_ns, Name::Drain);
                let notes = [generation, faults("answered")];
                writer.note(t_ns, Name::Drain, "drained", &notes);
            }
            What::DrainFailed => {
                writer.end(t_ns, Name::Drain);
                let why = match moment.detail {
                    1 => "deadline",
                    2 => "fault table full",
                    3 => "fault channel",
                    _ => "busy",
                };
                let notes = [
                    generation,
                    faults("outstanding"),
                    ("reason", Value::Text(why)),
                ];
                writer.note(t_ns, Name::Drain, "DRAIN FAILED", &notes);
            }
            What::ReleaseBegun => {
                if writer.end(t_ns, Name::Drain) {
                    writer.note(t_ns, Name::Drain, "given up", &[generation]);
                }
                writer.begin(t_ns, Name::Replay, "replay", &[generation, submissions]);
            }
            What::Replayed => {
                let notes = [
                    ("ticket", Value::Number(moment.second)),
                    ("device", Value::Number(moment.device.into())),
                ];
                writer.note(t_ns, Name::Submissions, "replayed", &notes);
            }
            What::Released => {
                writer.end(t_ns, Name::Replay);
                writer.count(t_ns, Name::Pending, 0);
            }
            What::Reset => {
                writer.end(t_ns, Name::Drain);
                writer.end(t_ns, Name::Replay);
                writer.instant(t_ns, Name::FrontEnd, "begins anew");
                self.faults.end_all(writer, moment, |_, _| true);
            }
            What::Save => writer.begin(t_ns, Name::Save, "save", &[bytes, submissions]),
            What::Saved => {
                writer.end(t_ns, Name::Save);
            }
            What::SaveFailed => {
                writer.end(t_ns, Name::Save);
                writer.instant(t_ns, Name::Save, "SAVE FAILED");
            }
            What::LoadBegun => writer.begin(t_ns, Name::Load, "load", &[]),
            What::Loaded => {
                writer.end(t_ns, Name::Load);
                writer.note(t_ns, Name::Load, "loaded", &[bytes, submissions]);
                writer.count(t_ns, Name::Pending, moment.second);
            }
            What::LoadFailed => {
                writer.end(t_ns, Name::Load);
                writer.instant(t_ns, Name::Load, "LOAD FAILED");
            }
            _ => {}
        }
    }

    fn submitted(&mut self, moment: &Moment) {
        let writer = &mut self.writer;
        let t_ns = moment.t_ns;
        let notes = [
            ("ticket", Value::Number(moment.second)),
            ("device", Value::Number(moment.device.into())),
        ];
        writer.note(t_ns, Name::Submissions, "queued", &notes);
        writer.count(t_ns, Name::Pending, moment.first);
    }
}
