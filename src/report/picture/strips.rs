// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A part to scale.

use super::{colour, ms, step_at, GREY, LEFT, LETTER, RIGHT, WIDTH};
use crate::report::{
    log::Kind,
    part::{Outcome, Part},
    svg::{size, Anchor, Svg},
};

/// What has lasted, in one of four rows.
struct Bar {
    row: u32,
    text: String,
    kind: Kind,
    begin_us: u64,
    end_us: u64,
}

fn bars(part: &Part) -> Vec<Bar> {
    let mut bars = Vec::new();
    let mut push = |row, text: &str, kind, begin: Option<u64>, end: Option<u64>| {
        if let (Some(begin_us), Some(end_us)) = (begin, end) {
            bars.push(Bar {
                row,
                text: text.to_owned(),
                kind,
                begin_us,
                end_us: end_us.max(begin_us),
            });
        }
    };
    let drain_end = part.drain.as_ref().and_then(|drain| drain.end_us);
    if let Some(fault) = &part.fault {
        let begin = step_at(part, 1).unwrap_or(fault.read_us);
        let end = step_at(part, 8).or(fault.written_us).or(drain_end);
        let text = if fault.written_us.is_some() {
            "fault outstanding"
        } else {
            "fault outstanding, and not answered"
        };
        push(0, text, Kind::Fault, Some(begin), end);
    }
    if let Some(drain) = &part.drain {
        push(1, "drain", Kind::Drain, Some(drain.begin_us), drain.end_us);
    }
    let arrival = part.arrival.as_ref();
    let load = arrival.and_then(|arrival| arrival.load_us);
    if !part.spans.iter().any(|span| span.kind == Kind::Stop) {
        let save = part.save.map(|save| save.t_us);
        push(2, "state saved and loaded", Kind::Stop, save, load);
    }
    for span in &part.spans {
        let row = match span.kind {
            Kind::Fault => 0,
            Kind::Drain => 1,
            Kind::Stop => 2,
            Kind::Queue | Kind::Replay => 3,
        };
        push(
            row,
            &span.text,
            span.kind,
            Some(span.begin_us),
            Some(span.end_us),
        );
    }
    if let Some(arrival) = arrival {
        let begin = arrival.release_us.or(arrival.replayed.first());
        push(3, "replay", Kind::Replay, begin, arrival.released_us);
    }
    bars
}

fn verdict(part: &Part) -> &str {
    match part.drain.as_ref().map(|drain| drain.outcome) {
        _ if !part.note.is_empty() => &part.note,
        Some(Outcome::Drained { .. }) => "drained",
        Some(Outcome::Failed { .. }) => "failed",
        Some(Outcome::GivenUp) => "given up",
        Some(Outcome::Open) => "not over",
        None => "",
    }
}

/// What a strip is high.
pub const STRIP_HEIGHT: f64 = 166.0;

/// One part on a linear axis: four rows of bars, and a row of when submissions were queued and
/// replayed.
pub fn strip(svg: &mut Svg, part: &Part, top: f64) {
    let bars = bars(part);
    let first = bars.iter().map(|bar| bar.begin_us).min();
    let last = bars.iter().map(|bar| bar.end_us).max();
    let (first, last) = (first.unwrap_or(0), last.unwrap_or(1_000_000));
    let margin = 10_000.max(last.saturating_sub(first) / 25);
    let begin = first.saturating_sub(margin);
    let end = last.saturating_add(margin);
    let length = ms(end - begin);
    let scale = (WIDTH - LEFT - RIGHT) / length;
    let at = |t_us: u64| LEFT + ms(t_us.clamp(begin, end) - begin) * scale;

    svg.text(20.0, top + 18.0, &part.title, size(16).bold());
    svg.text(20.0, top + 36.0, verdict(part), size(12));
    for bar in &bars {
        let y = top + 6.0 + f64::from(bar.row) * 26.0;
        let x = at(bar.begin_us);
        let width = (at(bar.end_us) - x).max(2.0);
        svg.bar(x, y, width, 18.0, colour(bar.kind));
        let label = format!("{}, {:.1} ms", bar.text, ms(bar.end_us - bar.begin_us));
        let room = label.chars().count() as f64 * LETTER;
        let style = size(12);
        if room + 12.0 < width {
            svg.text(x + 6.0, y + 13.0, &label, style.fill("#ffffff"));
        } else if x + width + 8.0 + room < WIDTH - RIGHT {
            svg.text(
                x + width + 6.0,
                y + 14.0,
                &label,
                style.fill(colour(bar.kind)),
            );
        } else {
            let style = style.fill(colour(bar.kind)).at(Anchor::End);
            svg.text(x - 6.0, y + 14.0, &label, style);
        }
    }
    let replayed = part.arrival.as_ref().map(|arrival| &arrival.replayed);
    let runs = [(Some(&part.queued), Kind::Queue), (replayed, Kind::Replay)];
    for (runs, kind) in runs {
        let inside = |run: &&(u64, u64)| run.0 <= end && run.1 >= begin;
        for (first, last) in runs.iter().flat_map(|runs| &runs.runs).filter(inside) {
            let width = (at(*last) - at(*first)).max(1.0);
            svg.bar(at(*first), top + 112.0, width, 12.0, colour(kind));
        }
    }
    svg.text(
        LEFT - 8.0,
        top + 122.0,
        "submissions",
        size(11).at(Anchor::End),
    );
    svg.line(
        (LEFT, top + 128.0),
        (WIDTH - RIGHT, top + 128.0),
        "#888888",
        1.2,
    );
    let style = size(10).at(Anchor::Middle).fill(GREY);
    for tick in ticks(length) {
        let x = LEFT + tick * scale;
        svg.line((x, top + 125.0), (x, top + 131.0), "#888888", 1.2);
        svg.text(x, top + 144.0, &format!("{tick} ms"), style);
    }
}

/// At most 14 round numbers of milliseconds.
fn ticks(length: f64) -> Vec<f64> {
    let mut step = 10.0;
    let mut factors = [2.0, 2.5, 2.0].into_iter().cycle();
    while length / step > 14.0 {
        step *= factors.next().unwrap_or(2.0);
    }
    (0..=14)
        .map(|index| f64::from(index) * step)
        .take_while(|tick| *tick <= length)
        .collect()
}
