// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What has been measured.

use std::io;

use serde::Serialize;

/// A line of results.json.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// What was measured.
    pub name: String,
    /// The figure, the median where there are many; none if it was not measured.
    pub value: Option<f64>,
    /// Of both figures.
    pub unit: &'static str,
    /// What it is compared with, in the same run.
    pub reference: Option<&'static str>,
    /// Its figure.
    pub reference_value: Option<f64>,
    /// `value / reference_value`.
    pub ratio: Option<f64>,
    /// What is aimed at, of the ratio if there is one, else of the value.
    pub target: Option<String>,
    /// Whether it is reached.
    pub met: Option<bool>,
    /// Who ran where, and how.
    pub pinning: String,
    /// The ratio (or the value) of each round, to show how much they differ.
    pub runs: Vec<f64>,
    /// Why it was not measured, or what there is to know about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What is aimed at.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Nothing.
    None,
    /// At most.
    Below(f64),
    /// At least.
    Above(f64),
}

/// The figures of the rounds of one thing.
pub struct Figures {
    /// The median of all samples.
    pub value: f64,
    /// The median of each round.
    pub rounds: Vec<f64>,
}

/// All entries.
#[derive(Default)]
pub struct Results(pub Vec<Entry>);

impl Results {
    /// Adds a figure, beside that of a reference if there is one.
    pub fn add(
        &mut self,
        name: &str,
        unit: &'static str,
        figures: &Figures,
        reference: Option<(&'static str, &Figures)>,
        target: Target,
        pinning: String,
    ) {
        let ratio = reference.map(|(_, other)| figures.value / other.value);
        let judged = ratio.unwrap_or(figures.value);
        let of = if ratio.is_some() { "ratio" } else { "value" };
        let (target, met) = match target {
            Target::None => (None, None),
            Target::Below(limit) => (Some(format!("{of} <= {limit}")), Some(judged <= limit)),
            Target::Above(limit) => (Some(format!("{of} >= {limit}")), Some(judged >= limit)),
        };
        let runs = match reference {
            Some((_, other)) => figures
                .rounds
                .iter()
                .zip(&other.rounds)
                .map(|(a, b)| round(a / b))
                .collect(),
            None => figures.rounds.iter().copied().map(round).collect(),
        };
        let entry = Entry {
            name: name.to_owned(),
            value: Some(round(figures.value)),
            unit,
            reference: reference.map(|(name, _)| name),
            reference_value: reference.map(|(_, other)| round(other.value)),
            ratio: ratio.map(round),
            target,
            met,
            pinning,
            runs,
            note: None,
        };
        eprintln!(
            "{:<58} {:>12} {:<18} {:>8} {}",
            entry.name,
            entry.value.unwrap_or_default(),
            entry.unit,
            entry
                .ratio
                .map(|ratio| format!("x {ratio}"))
                .unwrap_or_default(),
            entry
                .met
                .map_or("", |met| if met { "met" } else { "missed" }),
        );
        self.0.push(entry);
    }

    /// Adds what could not be measured, and why.
    pub fn missing(&mut self, name: &str, unit: &'static str, target: &str, why: &str) {
        eprintln!("{name:<58} not measured: {why}");
        self.0.push(Entry {
            name: name.to_owned(),
            value: None,
            unit,
            reference: None,
            reference_value: None,
            ratio: None,
            target: (!target.is_empty()).then(|| target.to_owned()),
            met: None,
            pinning: String::new(),
            runs: Vec::new(),
            note: Some(why.to_owned()),
        });
    }

    /// Says more about the last entry.
    pub fn note(&mut self, text: &str) {
        if let Some(entry) = self.0.last_mut() {
            entry.note = Some(text.to_owned());
        }
    }

    /// Runs a case; if it fails, the entries that it would have made say why.
    pub fn case(
        &mut self,
        names: &[(&str, &'static str)],
        case: impl FnOnce(&mut Self) -> io::Result<()>,
    ) {
        if let Err(e) = case(self) {
            for (name, unit) in names {
                if !self.0.iter().any(|entry| entry.name == *name) {
                    self.missing(name, unit, "", &format!("it failed: {e}"));
                }
            }
        }
    }
}

fn round(value: f64) -> f64 {
    if value.abs() >= 1000.0 {
        return value.round();
    }
    (value * 10_000.0).round() / 10_000.0
}

/// The median.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One round of something that is measured: its samples.
pub type Round<'a> = Box<dyn FnMut() -> io::Result<Vec<f64>> + 'a>;

/// Measures by turns: a round of each, so many times. The first time does not count.
pub fn by_turns<const N: usize>(
    rounds: usize,
    mut subjects: [Round<'_>; N],
) -> io::Result<[Figures; N]> {
    let mut samples: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
    let mut medians: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
    for turn in 0..=rounds {
        for (index, subject) in subjects.iter_mut().enumerate() {
            let round = subject()?;
            if turn > 0 {
                medians[index].push(median(&round));
                samples[index].extend(round);
            }
        }
    }
    let mut medians = medians.into_iter();
    Ok(samples.map(|samples| Figures {
        value: median(&samples),
        rounds: medians.next().unwrap_or_default(),
    }))
}

/// Of nanoseconds for each, how many in a second.
pub fn per_second(figures: &Figures) -> Figures {
    Figures {
        value: 1e9 / figures.value,
        rounds: figures.rounds.iter().map(|ns| 1e9 / ns).collect(),
    }
}
