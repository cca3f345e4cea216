// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The few SVG shapes that the picture needs.

use std::fmt::Write;

const FONT: &str = "DejaVu Sans, Helvetica, Arial, sans-serif";

/// How a text stands to its point.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Clone, Copy)]
pub struct Style {
    pub size: u32,
    pub bold: bool,
    pub anchor: Anchor,
    pub fill: &'static str,
    /// What is behind it is kept away.
    pub halo: bool,
}

/// Plain text of a size.
pub const fn size(size: u32) -> Style {
    Style {
        size,
        bold: false,
        anchor: Anchor::Start,
        fill: "#17202a",
        halo: false,
    }
}

impl Style {
    pub const fn bold(mut self) -> Self {
        self.bold = true;
        self
    }

    pub const fn at(mut self, anchor: Anchor) -> Self {
        self.anchor = anchor;
        self
    }

    pub const fn fill(mut self, fill: &'static str) -> Self {
        self.fill = fill;
        self
    }

    pub const fn halo(mut self) -> Self {
        self.halo = true;
        self
    }
}

/// A picture. Writing to a string does not fail.
pub struct Svg(String);

impl Svg {
    pub fn new(width: f64, height: f64) -> Self {
        let mut svg = Svg(String::new());
        let _ = writeln!(
            svg.0,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"{FONT}\">"
        );
        let _ = writeln!(
            svg.0,
            r##"<rect width="{width}" height="{height}" fill="#ffffff"/>"##
        );
        svg
    }

    pub fn text(&mut self, x: f64, y: f64, text: &str, style: Style) {
        let weight = if style.bold { "bold" } else { "normal" };
        let anchor = match style.anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let halo = if style.halo {
            r##" stroke="#ffffff" stroke-width="4" paint-order="stroke" stroke-linejoin="round""##
        } else {
            ""
        };
        let Style { size, fill, .. } = style;
        let text = escape(text);
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" font-weight=\"{weight}\" \
             text-anchor=\"{anchor}\" fill=\"{fill}\"{halo}>{text}</text>"
        );
    }

    pub fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        self.framed(x, y, width, height, fill, "none");
    }

    pub fn framed(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str, stroke: &str) {
        let _ = writeln!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\" \
             fill=\"{fill}\" stroke=\"{stroke}\"/>"
        );
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, width: f64) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.0,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" \
             stroke=\"{stroke}\" stroke-width=\"{width}\"/>"
        );
    }

    pub fn disc(&mut self, x: f64, y: f64, radius: u32, fill: &str) {
        let _ = writeln!(
            self.0,
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}" fill="{fill}"/>"#
        );
    }

    /// A horizontal arrow.
    pub fn arrow(&mut self, from: f64, y: f64, to: f64, stroke: &str) {
        let back = if to > from { -8.0 } else { 8.0 };
        self.line((from, y), (to + back / 2.0, y), stroke, 1.8);
        let _ = writeln!(
            self.0,
            r#"<path d="M {to:.1} {y:.1} l {back} -4.5 v 9 z" fill="{stroke}"/>"#
        );
    }

    pub fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

/// Texts come from the log.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // Not in XML, escaped or not.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('?'),
            c => out.push(c),
        }
    }
    out
}
