// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The picture: the last drains to scale, the last one as a sequence of who told whom what, and the
//! distributions of all durations.

use super::{
    log::{Kind, Lane},
    story::{Mark, Outcome, Part, Story},
    svg::{size, Anchor, Svg},
};
use crate::status::{histogram::Durations, table::Span};

const WIDTH: f64 = 1240.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 92.0;
const STRIP_HEIGHT: f64 = 166.0;
const ROW_HEIGHT: f64 = 34.0;
const CHART_HEIGHT: f64 = 190.0;
/// Parts that are drawn to scale, the last ones.
const STRIPS_MAX: usize = 4;
/// Of a letter of size 12, about.
const LETTER: f64 = 7.0;
const GREY: &str = "#555555";

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Fault => "#c0392b",
        Kind::Drain => "#2471a3",
        Kind::Stop => "#212f3c",
        Kind::Queue => "#b9770e",
        Kind::Replay => "#1e8449",
    }
}

const LANES: [(Lane, f64, &str); 6] = [
    (Lane::Guest, 215.0, "guest"),
    (Lane::Device, 395.0, "device"),
    (Lane::Vsmmu, 575.0, "QEMU, vSMMU"),
    (Lane::Backend, 755.0, "backend"),
    (Lane::BackendDestination, 935.0, "backend"),
    (Lane::QemuDestination, 1115.0, "QEMU, device"),
];

fn middle(lane: Lane) -> f64 {
    let found = LANES.iter().find(|(known, ..)| *known == lane);
    found.map_or(LEFT, |(_, x, _)| *x)
}

/// Draws what is kept of the logs.
pub fn draw(story: &Story) -> String {
    let shown = story.parts.len().min(STRIPS_MAX);
    let parts = story.parts.iter().skip(story.parts.len() - shown);
    let rows = story.parts.back().map(rows).unwrap_or_default();
    let sequence = TOP + shown as f64 * STRIP_HEIGHT;
    let charts = match rows.len() {
        0 => sequence,
        count => sequence + 116.0 + count as f64 * ROW_HEIGHT,
    };
    let mut svg = Svg::new(WIDTH, charts + CHART_HEIGHT);
    svg.text(
        20.0,
        34.0,
        "A DMA fault's round trip, and a live migration in the middle of it",
        size(20).bold(),
    );
    svg.text(
        20.0,
        58.0,
        "Red: the fault. Blue: the drain. Black: vCPUs stopped. Ochre: submissions trapped and \
         queued. Green: the replay at the destination.",
        size(12),
    );
    for (index, part) in parts.enumerate() {
        strip(&mut svg, part, TOP + index as f64 * STRIP_HEIGHT);
    }
    if let (Some(part), false) = (story.parts.back(), rows.is_empty()) {
        draw_rows(&mut svg, part, &rows, sequence + 24.0);
    }
    distributions(&mut svg, story, charts + 10.0);
    svg.finish()
}

/// What has lasted, in one of four rows.
struct Bar {
    row: u32,
    text: String,
    kind: Kind,
    begin_us: u64,
    end_us: u64,
}

fn step_at(part: &Part, number: u8) -> Option<u64> {
    let of_it = |mark: &&Mark| mark.step == Some(number);
    part.marks.iter().find(of_it).map(|mark| mark.t_us)
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

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
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

/// One part on a linear axis: four rows of bars, and a row of when submissions were queued and
/// replayed.
fn strip(svg: &mut Svg, part: &Part, top: f64) {
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

/// A row of the sequence.
struct Row {
    t_us: u64,
    from: Lane,
    to: Lane,
    text: String,
    kind: Kind,
    number: Option<u8>,
}

fn rows(part: &Part) -> Vec<Row> {
    use Lane::{Backend, BackendDestination, Device, Guest, QemuDestination, Vsmmu};
    let row = |t_us, from, to, text: &str, kind, number| Row {
        t_us,
        from,
        to,
        text: text.to_owned(),
        kind,
        number,
    };
    let told = part.marks.iter().map(|mark| {
        let Mark { t_us, from, to, .. } = *mark;
        row(t_us, from, to, &mark.text, mark.kind, mark.step)
    });
    let mut rows: Vec<_> = told.collect();
    let mut push = |t_us: Option<u64>, from, to, text: &str, kind, number: Option<u8>| {
        let known = number.is_some_and(|number| step_at(part, number).is_some());
        if let (Some(t_us), false) = (t_us, known) {
            rows.push(row(t_us, from, to, text, kind, number));
        }
    };
    if let Some(fault) = &part.fault {
        let mut step = |t_us, from, to, text, number| {
            push(t_us, from, to, text, Kind::Fault, Some(number));
        };
        step(Some(fault.read_us), Backend, Vsmmu, "event record", 2);
        step(fault.answered_us, Vsmmu, Backend, "CMD_RESUME", 6);
        step(fault.written_us, Backend, Device, "page response", 7);
    }
    if let Some(drain) = &part.drain {
        let begin = "drain begins, portal trapped";
        push(
            Some(drain.begin_us),
            Vsmmu,
            Backend,
            begin,
            Kind::Drain,
            None,
        );
        for (t_us, device) in &drain.quiesced {
            let text = format!("device {device} at rest");
            push(Some(*t_us), Device, Backend, &text, Kind::Drain, None);
        }
        let text = match drain.outcome {
            Outcome::Drained { .. } => "drained",
            Outcome::Failed { .. } => "drain has failed",
            Outcome::GivenUp => "drain given up",
            Outcome::Open => "",
        };
        push(drain.end_us, Backend, Vsmmu, text, Kind::Drain, None);
    }
    if part.queued.count > 0 {
        let text = format!("{} submissions trapped and queued", part.queued.count);
        push(
            part.queued.first(),
            Guest,
            Backend,
            &text,
            Kind::Queue,
            None,
        );
    }
    push(
        part.released_us,
        Backend,
        Vsmmu,
        "fast path is back",
        Kind::Replay,
        None,
    );
    let arrival = part.arrival.as_ref();
    let load = arrival.and_then(|arrival| arrival.load_us);
    let save = part.save.map(|save| save.t_us);
    push(
        load.or(save),
        Backend,
        BackendDestination,
        "state stream",
        Kind::Stop,
        None,
    );
    if let Some(arrival) = arrival {
        let (from, to) = (BackendDestination, QemuDestination);
        let order = if arrival.in_order {
            "in order"
        } else {
            "OUT OF ORDER"
        };
        let text = format!("{} replayed {order}", arrival.replayed.count);
        push(
            arrival.replayed.first(),
            from,
            to,
            &text,
            Kind::Replay,
            None,
        );
        push(
            arrival.released_us,
            from,
            to,
            "fast path is back",
            Kind::Replay,
            None,
        );
    }
    rows.sort_by_key(|row| row.t_us);
    rows
}

fn draw_rows(svg: &mut Svg, part: &Part, rows: &[Row], top: f64) {
    let bottom = top + 74.0 + rows.len() as f64 * ROW_HEIGHT;
    let title = format!(
        "{}, step by step (time flows down, not to scale)",
        part.title
    );
    svg.text(20.0, top, &title, size(16).bold());
    let side = size(13).at(Anchor::Middle);
    let between = |a, b| (middle(a) + middle(b)) / 2.0;
    let source = between(Lane::Guest, Lane::Backend);
    svg.text(source, top + 26.0, "source", side.fill(GREY));
    let destination = between(Lane::BackendDestination, Lane::QemuDestination);
    svg.text(destination, top + 26.0, "destination", side.fill(GREY));
    for (_, x, name) in LANES {
        svg.framed(x - 62.0, top + 34.0, 124.0, 24.0, "#eaf0f6", "#7f8c8d");
        svg.text(x, top + 51.0, name, side.bold());
        svg.line((x, top + 58.0), (x, bottom), "#bbbbbb", 1.2);
    }
    // What came before it, as a fault may have, has a time below 0.
    let since = |t_us: u64| ms(t_us) - ms(part.begin_us);
    for (index, row) in rows.iter().enumerate() {
        let y = top + 92.0 + index as f64 * ROW_HEIGHT;
        let colour = colour(row.kind);
        let time = format!("{:.3} ms", since(row.t_us));
        svg.text(128.0, y + 4.0, &time, size(11).at(Anchor::End).fill(GREY));
        if let Some(number) = row.number {
            svg.disc(28.0, y, 11, colour);
            let style = size(12).bold().at(Anchor::Middle).fill("#ffffff");
            svg.text(28.0, y + 4.0, &number.to_string(), style);
        }
        let (first, last) = (middle(row.from), middle(row.to));
        let style = size(12).fill(colour).halo();
        if row.from == row.to {
            svg.disc(first, y, 4, colour);
            let room = row.text.chars().count() as f64 * LETTER + 20.0;
            if WIDTH - first > room {
                svg.text(first + 9.0, y + 4.0, &row.text, style);
            } else {
                svg.text(first - 9.0, y + 4.0, &row.text, style.at(Anchor::End));
            }
        } else {
            svg.arrow(first, y, last, colour);
            let style = style.at(Anchor::Middle);
            svg.text((first + last) / 2.0, y - 5.0, &row.text, style);
        }
    }
}

fn distributions(svg: &mut Svg, story: &Story, top: f64) {
    svg.text(
        20.0,
        top + 16.0,
        "How long it took, of all in the logs",
        size(16).bold(),
    );
    let figures = &story.figures;
    let charts = [
        ("fault read to event", &figures.read_to_event, Kind::Fault),
        ("event to answer", &figures.event_to_answer, Kind::Fault),
        ("answer to written", &figures.answer_to_written, Kind::Fault),
        ("whole fault", &figures.whole, Kind::Fault),
        ("drain", &story.drains.times, Kind::Drain),
    ];
    let width = (WIDTH - 40.0) / charts.len() as f64;
    for (index, (title, histogram, kind)) in charts.into_iter().enumerate() {
        let left = 20.0 + index as f64 * width;
        chart(
            svg,
            left,
            top + 40.0,
            width - 16.0,
            title,
            &histogram.durations(),
            kind,
        );
    }
}

/// Bars for powers of two.
fn chart(
    svg: &mut Svg,
    left: f64,
    top: f64,
    width: f64,
    title: &str,
    durations: &Durations,
    kind: Kind,
) {
    let small = size(11);
    svg.text(
        left,
        top,
        &format!("{title}: {}", durations.count),
        small.bold(),
    );
    if durations.count == 0 {
        return;
    }
    let quantiles = format!(
        "p50 {}, p99 {}, max {}",
        Span(durations.p50_ns),
        Span(durations.p99_ns),
        Span(durations.max_ns)
    );
    svg.text(left, top + 15.0, &quantiles, small.fill(GREY));
    let mut counts = [0_u64; 65];
    for (below, count) in &durations.buckets {
        // The least power of two that is not below the bucket's end.
        let power = (below - 1).checked_ilog2().map_or(0, |log| log + 1);
        counts[power as usize] += count;
    }
    let used = |index: &usize| counts[*index] > 0;
    let first = (0..65).find(used).unwrap_or(0);
    let last = (0..65).rfind(used).unwrap_or(0).max(first + 3);
    let most = counts.iter().max().copied().unwrap_or(1).max(1) as f64;
    let bottom = top + 105.0;
    let step = width / (last - first + 1) as f64;
    for (place, count) in counts.iter().skip(first).take(last - first + 1).enumerate() {
        if *count > 0 {
            let height = (*count as f64 / most * 80.0).max(1.0);
            let x = left + place as f64 * step;
            svg.bar(x + 1.0, bottom - height, step - 2.0, height, colour(kind));
        }
    }
    svg.line((left, bottom), (left + width, bottom), "#888888", 1.2);
    let grey = size(10).fill(GREY);
    let bound = |power: usize| Span(1 << power.min(63)).to_string();
    let from = if first == 0 {
        "0".to_owned()
    } else {
        bound(first - 1)
    };
    svg.text(left, bottom + 13.0, &from, grey);
    svg.text(
        left + width,
        bottom + 13.0,
        &bound(last),
        grey.at(Anchor::End),
    );
}
