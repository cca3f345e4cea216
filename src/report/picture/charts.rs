// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How long it took: a distribution of each kind of duration.

use super::{colour, GREY, WIDTH};
use crate::{
    report::{
        log::Kind,
        story::Story,
        svg::{size, Anchor, Svg},
    },
    status::{histogram::Durations, table::Span},
};

/// What they are high.
pub const HEIGHT: f64 = 190.0;

/// Draws them side by side.
pub fn distributions(svg: &mut Svg, story: &Story, top: f64) {
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
