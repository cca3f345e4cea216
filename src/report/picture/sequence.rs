// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A part as a sequence of who told whom what.

use super::{colour, ms, step_at, GREY, LEFT, LETTER, WIDTH};
use crate::report::{
    log::{Kind, Lane},
    part::{Mark, Outcome, Part},
    svg::{size, Anchor, Svg},
};

const ROW_HEIGHT: f64 = 34.0;

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

/// What so many rows are high, with their title.
pub fn height(rows: usize) -> f64 {
    if rows == 0 {
        return 0.0;
    }
    116.0 + rows as f64 * ROW_HEIGHT
}

/// A row of the sequence.
pub struct Row {
    t_us: u64,
    from: Lane,
    to: Lane,
    text: String,
    kind: Kind,
    number: Option<u8>,
}

/// What a part has to tell, in order of time.
pub fn rows(part: &Part) -> Vec<Row> {
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

/// Draws them, below each other.
pub fn draw(svg: &mut Svg, part: &Part, rows: &[Row], top: f64) {
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
