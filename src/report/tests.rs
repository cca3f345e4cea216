// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::{fmt::Write as _, fs};

use rustix::fs::{mknodat, FileType, Mode, CWD};
use tempfile::TempDir;

use super::*;

/// The event log of a back-end, as it is written.
#[derive(Default)]
struct Lines {
    text: String,
    t_us: u64,
}

impl Lines {
    fn at(t_us: u64) -> Self {
        Lines {
            text: String::new(),
            t_us,
        }
    }

    fn event(&mut self, us: u64, event: &str, members: &str) -> &mut Self {
        self.t_us += us;
        let comma = if members.is_empty() { "" } else { "," };
        let t_us = self.t_us;
        writeln!(
            self.text,
            r#"{{"t_us":{t_us},"actor":"backend","event":"{event}"{comma}{members}}}"#
        )
        .unwrap();
        self
    }

    fn read(&mut self, us: u64, stag: u32, cookie: u32) -> &mut Self {
        let members = [
            format!(r#""device":0,"sid":128,"ssid":1,"stag":{stag},"addr":4096,"write":true"#),
            format!(r#""grpid":0,"channel":0,"cookie":{cookie}"#),
        ]
        .join(",");
        self.event(us, "fault_read", &members)
    }

    fn emitted(&mut self, us: u64, stag: u32) -> &mut Self {
        let members = format!(r#""device":0,"stag":{stag},"seq":1"#);
        self.event(us, "event_emitted", &members)
    }

    fn answered(&mut self, us: u64, stag: u32, cookie: u32) -> &mut Self {
        let members = [
            format!(r#""device":0,"sid":128,"stag":{stag},"channel":0,"cookie":{cookie}"#),
            r#""code":"success","command":"resume","age_ns":1"#.to_owned(),
        ]
        .join(",");
        self.event(us, "resume_received", &members)
    }

    fn written(&mut self, us: u64, cookie: u32) -> &mut Self {
        let members = format!(r#""channel":0,"cookie":{cookie},"code":"success","faults":1"#);
        self.event(us, "answer_written", &members)
    }

    fn drain(&mut self, us: u64, generation: u64) -> &mut Self {
        let members = format!(r#""generation":{generation},"timeout_ms":5000"#);
        self.event(us, "drain_begin", &members)
    }

    fn drained(&mut self, us: u64, generation: u64) -> &mut Self {
        let members =
            format!(r#""generation":{generation},"duration_ns":7000000,"answered":1,"pending":2"#);
        self.event(us, "drain_complete", &members);
        self.event(1, "drained", &format!(r#"{members},"seq":3"#))
    }
}

fn source() -> Lines {
    let mut lines = Lines::at(1_000_000_000);
    lines.event(0, "listening", "");
    lines.read(100, 0, 5).emitted(10, 0).drain(1000, 3);
    for ticket in 0..2 {
        let members = format!(r#""device":0,"ticket":{ticket},"pending":1"#);
        lines.event(10, "submission_queued", &members);
    }
    lines.answered(6000, 0, 5).written(40, 5).drained(1000, 3);
    lines.event(500, "save", r#""bytes":640,"pending":2"#);
    lines
}

fn destination(begin_us: u64) -> Lines {
    let mut lines = Lines::at(begin_us);
    lines.event(0, "listening", "");
    lines.event(
        10,
        "restored",
        r#""generation":3,"pending":2,"next_ticket":0"#,
    );
    lines.event(1, "load", r#""bytes":640,"pending":2"#);
    lines.event(100, "release", r#""generation":3,"pending":2"#);
    for ticket in 0..2 {
        let members = format!(r#""device":0,"ticket":{ticket},"seq":1"#);
        lines.event(10, "replay", &members);
    }
    let members = r#""generation":3,"next_ticket":2,"replayed":2,"seq":9"#;
    lines.event(80, "released", members);
    lines
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn report(&self, logs: Vec<PathBuf>) -> Result<(String, String), ReportError> {
        let output = self.0.path().join("picture.svg");
        let text = report(&Report {
            logs,
            output: output.clone(),
            generation: None,
        })?;
        Ok((text, fs::read_to_string(output).unwrap()))
    }

    fn of(&self, text: impl AsRef<[u8]>) -> Result<(String, String), ReportError> {
        self.report(vec![self.file("events.jsonl", text)])
    }

    fn error(&self, text: impl AsRef<[u8]>) -> String {
        self.of(text).unwrap_err().to_string()
    }
}

#[track_caller]
fn has(text: &str, wanted: &str) {
    assert!(text.contains(wanted), "no {wanted:?} in:\n{text}");
}

#[test]
fn test_report_of_source_and_destination_joins_them_in_any_order() {
    let place = Place::new();
    let [source, destination] = [
        place.file("source.jsonl", source().text),
        place.file("destination.jsonl", destination(1_000_010_000).text),
    ];
    for logs in [
        vec![source.clone(), destination.clone()],
        vec![destination, source],
    ] {
        let (text, picture) = place.report(logs).unwrap();
        has(
            &text,
            "faults: 1 read, 1 answered, 0 refused, 0 aborted, 0 unanswered",
        );
        has(&text, "drains: 1 begun, 1 drained, 0 failed, 0 given up");
        has(
            &text,
            "generation 3, 1970-01-01 00:16:40.001 UTC: drained in 7.06ms, 1 faults answered; \
             2 submissions queued",
        );
        has(
            &text,
            "SID 0x80, SSID 0x1, address 0x1000, answered after 7.07ms",
        );
        has(&text, "state saved: 640 B, 2 submissions");
        has(&text, "loaded 1.34ms later at the destination");
        has(&text, "2 replayed in order in 100us");
        for words in [
            "Drain 1, step by step",
            "fault outstanding, 7.1 ms",
            "state saved and loaded, 1.3 ms",
            "2 submissions trapped and queued",
            "2 replayed in order",
            "CMD_RESUME",
            "page response",
            "whole fault: 1",
        ] {
            has(&picture, words);
        }
    }
}

#[test]
fn test_times_of_faults_are_those_of_the_log() {
    let place = Place::new();
    let mut lines = Lines::at(5_000_000);
    for cookie in 0..100 {
        lines
            .read(1, 7, cookie)
            .emitted(10, 7)
            .answered(1000, 7, cookie)
            .written(5, cookie);
    }
    let (text, picture) = place.of(lines.text).unwrap();
    has(
        &text,
        "read to event             100 times, p50   10.0us, p99   10.0us, max   10.0us",
    );
    has(
        &text,
        "event to answer           100 times, p50   1.00ms, p99   1.00ms, max   1.00ms",
    );
    has(
        &text,
        "answer to written         100 times, p50   5.00us, p99   5.00us, max   5.00us",
    );
    has(
        &text,
        "whole                     100 times, p50   1.01ms, p99   1.01ms, max   1.01ms",
    );
    has(&picture, "event to answer: 100");
}

#[test]
fn test_failed_drain_names_the_fault_that_was_not_answered() {
    let place = Place::new();
    let mut lines = Lines::at(1_000_000);
    lines.read(0, 1, 1).emitted(1, 1).drain(1000, 1);
    let members =
        r#""generation":1,"reason":"deadline","outstanding":1,"untaken":0,"untaken_device":null"#;
    lines.event(5_000_000, "drain_failed", members);
    let (text, picture) = place.of(lines.text).unwrap();
    has(
        &text,
        "FAILED after 5.00s of 5000 ms: not drained at its deadline, 1 outstanding",
    );
    has(&text, "address 0x1000, NOT ANSWERED for 5.00s");
    has(&picture, "fault outstanding, and not answered");
}

#[test]
fn test_clocks_of_hosts_that_differ_are_told() {
    let place = Place::new();
    let logs = vec![
        place.file("source.jsonl", source().text),
        place.file("destination.jsonl", destination(1_000_000_000).text),
    ];
    let (text, _) = place.report(logs).unwrap();
    has(
        &text,
        "EARLIER at the destination: the clocks of the hosts differ",
    );
}

#[test]
fn test_torn_last_line_is_left_out_and_told() {
    let place = Place::new();
    let mut text = source().text;
    let lines = text.lines().count();
    text += r#"{"t_us":1000009000,"actor":"backend","ev"#;
    let (text, _) = place.of(text).unwrap();
    has(&text, &format!("line {} is torn and left out", lines + 1));
    has(&text, "faults: 1 read, 1 answered");
}

#[test]
fn test_line_torn_anywhere_in_the_middle_of_a_log_is_left_out_and_told() {
    let place = Place::new();
    let good = source().text;
    let read = Lines::at(1).read(0, 1, 1).text.clone();
    let whole = read.trim_end();
    for cut in 1..whole.len() {
        let (text, _) = place.of(format!("{}\n{good}", &whole[..cut])).unwrap();
        has(&text, "line 1 is torn and left out");
        has(&text, "faults: 1 read, 1 answered");
    }
}

#[test]
fn test_record_behind_zeros_is_read() {
    let place = Place::new();
    let (text, _) = place.of(format!("\0\0\0{}\0\0\n", source().text)).unwrap();
    has(&text, "faults: 1 read, 1 answered");
}

#[test]
fn test_line_that_is_no_record_is_an_error_with_file_and_number() {
    let place = Place::new();
    let good = Lines::at(1).event(0, "listening", "").text.clone();
    for bad in [
        "not json\n",
        "{\"t_us\":1,\"actor\":\"backend\"}\n",
        "{\"t_us\":-1,\"actor\":\"backend\",\"event\":\"listening\"}\n",
        "{\"t_us\":1,\"actor\":\"backend\",\"event\":\"fault_read\",\"device\":0}\n",
        "[]\n",
        "\u{1b}[31mx\n",
    ] {
        let error = place.error(format!("{good}\n{bad}{good}"));
        has(&error, "events.jsonl\", line 3: ");
        assert!(!error.contains('\u{1b}'));
    }
    has(&place.error("<svg>\n"), "line 1: ");
    has(&place.error([0xff, 0xfe, 0, b'\n']), "line 1: ");
    has(&place.error("{\"t_us\":1"), "has no events");
}

#[test]
fn test_line_without_end_is_an_error_not_memory() {
    let place = Place::new();
    let mut text = Lines::at(1).event(0, "listening", "").text.clone();
    text += &"x".repeat(1 << 20);
    has(&place.error(text), "line 2: longer than 65536 bytes");
}

#[test]
fn test_log_without_events_is_an_error() {
    let place = Place::new();
    has(&place.error(""), "events.jsonl\" has no events");
    has(
        &place.error("{\"t_us\":1,\"event\":\"STOP\"}\n"),
        "has no events",
    );
}

#[test]
fn test_events_of_a_later_release_are_counted() {
    let place = Place::new();
    let mut lines = source();
    lines.event(1, "warp", r#""factor":9"#);
    let (text, _) = place.of(lines.text).unwrap();
    has(
        &text,
        "1 lines are of events that this release does not know",
    );
}

#[test]
fn test_missing_events_are_told() {
    let place = Place::new();
    let mut lines = source();
    lines.event(1, "log_overflow", r#""dropped":12"#);
    let (text, _) = place.of(lines.text).unwrap();
    has(&text, "12 events are missing");
}

#[test]
fn test_notes_of_others_are_drawn_and_make_no_markup() {
    let place = Place::new();
    let mut lines = Lines::at(1_000_000);
    lines.text += concat!(
        r#"{"t_us":1000000,"actor":"x","event":"section","title":"Run <A>","note":"failed"}"#,
        "\n",
        r#"{"t_us":1000500,"actor":"x","event":"mark","from":"device","to":"backend","#,
        r#""text":"a & \u0001b","kind":"fault","step":1}"#,
        "\n",
        r#"{"t_us":1001000,"actor":"x","event":"span","text":"vCPUs stopped","kind":"stop","#,
        r#""until_us":1201000}"#,
        "\n",
    );
    lines.read(0, 1, 1).written(1, 1);
    let (_, picture) = place.of(lines.text).unwrap();
    has(&picture, "Run &lt;A&gt;, step by step");
    has(&picture, "a &amp; b");
    has(&picture, "vCPUs stopped, 200.0 ms");
}

#[test]
fn test_note_that_names_nobody_is_an_error_with_who_there_is() {
    let place = Place::new();
    let good = concat!(
        r#"{"t_us":1,"actor":"x","event":"mark","from":"device","to":"guest","#,
        r#""text":"","kind":"fault"}"#
    );
    for (one, other, known) in [
        (r#""from":"device""#, r#""from":"nobody""#, "`guest`"),
        (r#""to":"guest""#, r#""to":"nobody""#, "`guest`"),
        (r#""kind":"fault""#, r#""kind":"nothing""#, "`drain`"),
        (r#""from":"device","#, "", "missing field `from`"),
    ] {
        let error = place.error(format!("{}\n", good.replace(one, other)));
        has(&error, "line 1: ");
        has(&error, known);
    }
}

#[test]
fn test_notes_that_find_no_place_are_told() {
    let place = Place::new();
    let mark = concat!(
        r#"{"t_us":1,"actor":"x","event":"mark","from":"device","to":"guest","#,
        r#""text":"early","kind":"fault"}"#
    );
    let mut lines = Lines::at(1_000_000);
    lines.text = format!("{mark}\n");
    lines.drain(0, 1);
    lines.text += &format!("{mark}\n").repeat(300);
    let (text, _) = place.of(lines.text).unwrap();
    has(&text, "45 marks and spans are not drawn");
    has(
        &text,
        "line 3 is earlier than the one before; 1 such lines in all",
    );
    let (text, _) = place.of(source().text).unwrap();
    assert!(
        !text.contains("not drawn") && !text.contains("earlier"),
        "{text}"
    );
}

#[test]
fn test_log_that_is_named_twice_is_refused_by_whatever_name() {
    let place = Place::new();
    let log = place.file("events.jsonl", source().text);
    let [link, hard] = ["link", "hard"].map(|name| place.0.path().join(name));
    std::os::unix::fs::symlink(&log, &link).unwrap();
    fs::hard_link(&log, &hard).unwrap();
    for other in [&log, &link, &hard] {
        let error = place.report(vec![log.clone(), other.clone()]).unwrap_err();
        has(&error.to_string(), "is named twice");
    }
}

#[test]
fn test_fifo_without_writer_is_an_error_at_once() {
    let place = Place::new();
    let fifo = place.0.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let error = place.report(vec![fifo.clone()]).unwrap_err();
    has(&error.to_string(), "has no events");
    let error = report(&Report {
        logs: vec![place.file("events.jsonl", source().text)],
        output: fifo,
        generation: None,
    });
    has(&error.unwrap_err().to_string(), "it is a FIFO");
}

#[test]
fn test_what_is_kept_is_bounded_whatever_a_log_has() {
    let place = Place::new();
    let mut lines = Lines::at(u64::MAX / 2);
    for number in 0..70_000 {
        lines.read(1, number % 65_536, number);
    }
    for generation in 0..100 {
        lines.drain(1, generation);
        for ticket in 0..600 {
            let members = format!(r#""device":0,"ticket":{ticket},"pending":1"#);
            lines.event(100_000, "submission_queued", &members);
        }
    }
    lines.t_us = u64::MAX;
    lines.event(0, "listening", "");
    let (text, picture) = place.of(lines.text).unwrap();
    has(&text, "drains: 100 begun");
    has(&text, "600 submissions queued");
    assert!(!text.contains("Drain 84,"), "sixteen are kept");
    has(&text, "Drain 85,");
    assert!(picture.len() < 1 << 20, "{}", picture.len());
}

#[test]
fn test_drain_of_a_generation_can_be_chosen() {
    let place = Place::new();
    let mut lines = Lines::at(1_000_000);
    for generation in 1..=20 {
        lines.drain(1000, generation).drained(1000, generation);
    }
    let log = place.file("events.jsonl", &lines.text);
    let of = |generation| {
        report(&Report {
            logs: vec![log.clone()],
            output: place.0.path().join("picture.svg"),
            generation: Some(generation),
        })
    };
    has(&of(2).unwrap(), "Drain 2, generation 2,");
    has(
        &of(21).unwrap_err().to_string(),
        "No drain has the generation 21",
    );
}

#[test]
fn test_picture_never_replaces_a_log() {
    let place = Place::new();
    let log = place.file("events.jsonl", source().text);
    let before = fs::read(&log).unwrap();
    let error = report(&Report {
        logs: vec![log.clone()],
        output: log.clone(),
        generation: None,
    });
    has(&error.unwrap_err().to_string(), "would replace");
    assert_eq!(fs::read(&log).unwrap(), before);
}
