// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Status documents as Prometheus text (format 0.0.4).
//!
//! The crate `prometheus` writes the text; its own metrics are not used, as they take locks or know
//! fixed bounds only. `prometheus-client` writes OpenMetrics, which node_exporter's textfile
//! collector does not read.

use prometheus::{
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
    TextEncoder,
};

use super::{
    document::{Document, Outcome},
    histogram::Durations,
};
use crate::core::Phase;

/// A back-end as metrics have it.
pub struct Source {
    /// Label `vm`; none in what a back-end says of itself.
    pub vm: Option<String>,
    /// `None`: it does not answer.
    pub document: Option<Document>,
}

/// Bounds of the buckets: powers of two from 4 us to 69 s, in nanoseconds.
const BOUNDS: std::ops::RangeInclusive<u32> = 12..=36;

type Label<'a> = (&'a str, &'a str);

/// The metrics of some back-ends.
pub fn text(sources: &[Source]) -> Result<String, prometheus::Error> {
    let mut families = Families::default();
    for source in sources {
        let vm: Vec<Label<'_>> = source.vm.iter().map(|vm| ("vm", vm.as_str())).collect();
        let up = f64::from(u8::from(source.document.is_some()));
        families.gauge("vsva_up", "Whether the back-end answers.", &vm, up);
        if let Some(document) = &source.document {
            families.process(document, &vm);
            families.faults(document, &vm);
            families.submissions(document, &vm);
            families.drains(document, &vm);
            families.devices(document, &vm);
        }
    }
    TextEncoder::new().encode_to_string(&families.0)
}

/// The families in the order in which they came first.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn process(&mut self, document: &Document, vm: &[Label<'_>]) {
        let info = [vm, &[("version", document.program.as_str())]].concat();
        self.gauge("vsva_build_info", "The program's version.", &info, 1.0);
        let uptime = document.uptime_s;
        self.gauge("vsva_uptime_seconds", "Since the start.", vm, uptime);
        let connected = f64::from(u8::from(document.connected));
        let help = "Whether a front end is connected.";
        self.gauge("vsva_connected", help, vm, connected);
        for (name, phase) in [
            ("running", Phase::Running),
            ("draining", Phase::Draining),
            ("drained", Phase::Drained),
            ("failed", Phase::Failed),
            ("loaded", Phase::Loaded),
            ("releasing", Phase::Releasing),
        ] {
            let labels = [vm, &[("phase", name)]].concat();
            let current = f64::from(u8::from(document.phase == phase));
            let help = "1 for the phase of the portal.";
            self.gauge("vsva_phase", help, &labels, current);
        }
        let state = &document.state;
        for (name, help, value) in [
            (
                "vsva_connections_total",
                "Front ends that have connected.",
                document.connections,
            ),
            (
                "vsva_resets_total",
                "Resets by front ends.",
                document.resets,
            ),
            ("vsva_saves_total", "States saved.", state.saves),
            (
                "vsva_saves_failed_total",
                "States that could not be saved.",
                state.saves_failed,
            ),
            ("vsva_loads_total", "States loaded.", state.loads),
            (
                "vsva_loads_failed_total",
                "States that were refused.",
                state.loads_failed,
            ),
        ] {
            self.counter(name, help, vm, value);
        }
    }

    fn faults(&mut self, document: &Document, vm: &[Label<'_>]) {
        let faults = &document.faults;
        let age = faults.oldest.map_or(0.0, |fault| fault.age_ms as f64 / 1e3);
        for (name, help, value) in [
            (
                "vsva_faults_outstanding",
                "Faults read and not answered.",
                faults.outstanding.into(),
            ),
            (
                "vsva_faults_max",
                "Faults that can be outstanding.",
                faults.max.into(),
            ),
            (
                "vsva_fault_share",
                "Faults that a device may have outstanding.",
                faults.share.into(),
            ),
            (
                "vsva_events_backlog",
                "Events waiting for a buffer.",
                faults.backlog.into(),
            ),
            (
                "vsva_channels_blocked",
                "Channels not read for want of room.",
                faults.blocked.into(),
            ),
            (
                "vsva_oldest_fault_age_seconds",
                "Age of the oldest unanswered fault.",
                age,
            ),
        ] {
            self.gauge(name, help, vm, value);
        }
        for (name, help, value) in [
            ("vsva_faults_read_total", "Faults read.", faults.read),
            (
                "vsva_faults_answered_total",
                "Faults answered.",
                faults.answered,
            ),
            (
                "vsva_faults_refused_total",
                "Records answered INVALID at once.",
                faults.refused,
            ),
            (
                "vsva_faults_aborted_total",
                "Ended by a reset or detach.",
                faults.aborted,
            ),
            (
                "vsva_answers_aborted_total",
                "Answers to faults that the kernel had aborted.",
                faults.answers_aborted,
            ),
            (
                "vsva_unknown_answers_total",
                "Answers that match nothing.",
                faults.unknown_answers,
            ),
        ] {
            self.counter(name, help, vm, value);
        }
        for (step, durations) in faults.times.all() {
            let labels = [vm, &[("step", step)]].concat();
            let help = "Duration of a step in the life of a fault.";
            self.histogram("vsva_fault_duration_seconds", help, &labels, durations);
        }
    }

    fn submissions(&mut self, document: &Document, vm: &[Label<'_>]) {
        let submissions = &document.submissions;
        let (pending, max) = (submissions.pending.into(), submissions.max.into());
        self.gauge(
            "vsva_submissions_pending",
            "Submissions queued.",
            vm,
            pending,
        );
        let help = "Submissions that can be queued.";
        self.gauge("vsva_submissions_pending_max", help, vm, max);
        let received = submissions.received;
        self.counter(
            "vsva_submissions_total",
            "Submissions received.",
            vm,
            received,
        );
        let replayed = submissions.replayed;
        self.counter("vsva_replays_total", "Submissions replayed.", vm, replayed);
    }

    fn drains(&mut self, document: &Document, vm: &[Label<'_>]) {
        let drains = &document.drains;
        self.counter("vsva_drains_total", "Drains begun.", vm, drains.begun);
        self.counter(
            "vsva_drains_failed_total",
            "Drains that failed.",
            vm,
            drains.failed,
        );
        let help = "Duration of the drains that were complete.";
        self.histogram("vsva_drain_duration_seconds", help, vm, &drains.times);
        if let Some(last) = &drains.last {
            let failed = matches!(last.outcome, Outcome::Failed { .. });
            let help = "Whether the last drain failed.";
            self.gauge(
                "vsva_last_drain_failed",
                help,
                vm,
                f64::from(u8::from(failed)),
            );
            let seconds = last.duration_ns as f64 / 1e9;
            let help = "Duration of the last drain, so far if it is under way.";
            self.gauge("vsva_last_drain_duration_seconds", help, vm, seconds);
        }
        let estimate = &drains.estimate;
        for (bound, duration) in [
            ("at_least", &estimate.at_least),
            ("at_most", &estimate.at_most),
        ] {
            for (over, ns) in [("p50", duration.p50_ns), ("max", duration.max_ns)] {
                let labels = [vm, &[("bound", bound), ("over", over)]].concat();
                let help = "How long a drain would have taken over the last minute.";
                let seconds = ns as f64 / 1e9;
                self.gauge("vsva_drain_estimate_seconds", help, &labels, seconds);
            }
        }
    }

    fn devices(&mut self, document: &Document, vm: &[Label<'_>]) {
        let (count, max) = (document.devices.len() as f64, document.max_devices.into());
        self.gauge("vsva_devices", "Devices attached.", vm, count);
        self.gauge("vsva_devices_max", "Devices that can be attached.", vm, max);
        for device in &document.devices {
            let sid = format!("{:#x}", device.sid);
            let labels = [vm, &[("sid", sid.as_str())]].concat();
            let lost = f64::from(u8::from(device.lost));
            let unanswered = device.unanswered.into();
            let help = "Faults of a device that the guest has not answered.";
            self.gauge("vsva_device_faults_unanswered", help, &labels, unanswered);
            let help = "Faults that a device may have unanswered: its own limit, or the share.";
            let limit = device.fault_limit.into();
            self.gauge("vsva_device_faults_max", help, &labels, limit);
            let help = "Submissions of a device that are queued.";
            let pending = device.pending.into();
            self.gauge("vsva_device_submissions_pending", help, &labels, pending);
            let help = "Whether the fault channel of a device has ended.";
            self.gauge("vsva_device_lost", help, &labels, lost);
            let help = "Faults of a device read since it was attached.";
            self.counter(
                "vsva_device_faults_read_total",
                help,
                &labels,
                device.faults_read,
            );
            let help = "Submissions for a device since it was attached.";
            let name = "vsva_device_submissions_total";
            self.counter(name, help, &labels, device.submissions);
        }
    }

    fn gauge(&mut self, name: &str, help: &str, labels: &[Label<'_>], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_gauge(gauge);
        metric.set_label(pairs(labels));
        self.add(name, help, MetricType::GAUGE, metric);
    }

    fn counter(&mut self, name: &str, help: &str, labels: &[Label<'_>], value: u64) {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_counter(counter);
        self.add(name, help, MetricType::COUNTER, metric);
    }

    fn histogram(&mut self, name: &str, help: &str, labels: &[Label<'_>], of: &Durations) {
        let buckets = BOUNDS.map(|power| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound((1_u64 << power) as f64 / 1e9);
            bucket.set_cumulative_count(of.below(1 << power));
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(of.count);
        histogram.set_sample_sum(of.sum_ns as f64 / 1e9);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.add(name, help, MetricType::HISTOGRAM, metric);
    }

    fn add(&mut self, name: &str, help: &str, kind: MetricType, metric: Metric) {
        let known = self.0.iter_mut().find(|family| family.name() == name);
        if let Some(family) = known {
            family.mut_metric().push(metric);
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(vec![metric]);
        self.0.push(family);
    }
}

fn pairs(labels: &[Label<'_>]) -> Vec<LabelPair> {
    let pair = |(name, value): &Label<'_>| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}
