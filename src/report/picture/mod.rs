// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The picture: the last drains to scale, the last one as a sequence of who told whom what, and the
//! distributions of all durations.

mod charts;
mod sequence;
mod strips;

use super::{
    log::Kind,
    part::{Mark, Part},
    story::Story,
    svg::{size, Svg},
};

const WIDTH: f64 = 1240.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 92.0;
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

fn step_at(part: &Part, number: u8) -> Option<u64> {
    let of_it = |mark: &&Mark| mark.step == Some(number);
    part.marks.iter().find(of_it).map(|mark| mark.t_us)
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

/// Draws what is kept of the logs.
pub fn draw(story: &Story) -> String {
    let shown = story.parts.len().min(STRIPS_MAX);
    let parts = story.parts.iter().skip(story.parts.len() - shown);
    let rows = story.parts.back().map(sequence::rows).unwrap_or_default();
    let below = TOP + shown as f64 * strips::STRIP_HEIGHT;
    let end = below + sequence::height(rows.len());
    let mut svg = Svg::new(WIDTH, end + charts::HEIGHT);
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
        strips::strip(&mut svg, part, TOP + index as f64 * strips::STRIP_HEIGHT);
    }
    if let (Some(part), false) = (story.parts.back(), rows.is_empty()) {
        sequence::draw(&mut svg, part, &rows, below + 24.0);
    }
    charts::distributions(&mut svg, story, end + 10.0);
    svg.finish()
}
