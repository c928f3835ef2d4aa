//! The outcome of a case, and how it is shown: as a row of a table, or as a line of JSON.

use serde_json::{Map, Value, json};

use crate::pairs::{Pairs, Spread};

pub(crate) const TITLE: &str =
    "case                    ezq    reference  ratio     min     max  unit            repetitions";

/// The outcome of a case or of a part of one, and the settings under which it was measured.
#[derive(Debug)]
pub(crate) struct Outcome {
    measure: Measure,
    figures: Figures,
    settings: Map<String, Value>,
    /// The place on the scale, in a case that measures how a cost grows.
    point: Map<String, Value>,
}

/// What a case, or a part of one, measures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) target: Option<Target>,
}

/// The figures that were measured.
#[derive(Debug)]
pub(crate) enum Figures {
    /// Runs of ezq against runs of a reference.
    Pairs(Pairs),
    /// Repeated runs of ezq without a reference.
    Alone(Vec<f64>),
}

/// What a line shows of the figures.
struct Summary {
    ezq: f64,
    reference: Option<f64>,
    ratio: Option<f64>,
    /// The spread of the ratios, or of the figures themselves if there is no reference.
    spread: Spread,
    count: usize,
}

impl Figures {
    fn summary(&self) -> Summary {
        match self {
            Self::Pairs(pairs) => {
                let ratios = pairs.ratios();
                Summary {
                    ezq: pairs.ezq(),
                    reference: Some(pairs.reference()),
                    ratio: Some(ratios.median),
                    spread: ratios,
                    count: pairs.len(),
                }
            }
            Self::Alone(values) => {
                let spread = Spread::of(values);
                Summary {
                    ezq: spread.median,
                    reference: None,
                    ratio: None,
                    spread,
                    count: values.len(),
                }
            }
        }
    }
}

/// The value that the ratio must reach, or the figure itself if there is no reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn is_reached(self, value: f64) -> bool {
        match self {
            // The noise of a machine is about 5 %, so this is as fast as can be measured.
            Self::AtLeast(least) => value >= if least == 1.0 { 0.95 } else { least },
            Self::AtMost(most) => value <= most,
        }
    }
}

impl Outcome {
    pub(crate) fn of(measure: Measure, figures: Figures, settings: Map<String, Value>) -> Self {
        Self {
            measure,
            figures,
            settings,
            point: Map::new(),
        }
    }

    /// Makes it a part of its case, with a name and a target of its own.
    pub(crate) fn part(mut self, name: &'static str, target: Option<Target>) -> Self {
        self.measure.name = name;
        self.measure.target = target;
        self
    }

    /// Makes it a point on the scale of what grows.
    pub(crate) fn at(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.point.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn json(&self) -> String {
        let summary = self.figures.summary();

        let mut line = json!({
            "case": self.measure.name,
            "unit": self.measure.unit,
            "ezq": figure(summary.ezq),
            "reference": summary.reference.map(figure),
            "ratio": summary.ratio.map(cut),
            "repetitions": summary.count,
            "min": cut(summary.spread.min),
            "median": cut(summary.spread.median),
            "max": cut(summary.spread.max),
            "settings": self.settings,
        });
        if let Some(target) = self.measure.target {
            let (name, value) = match target {
                Target::AtLeast(value) => ("at_least", value),
                Target::AtMost(value) => ("at_most", value),
            };
            line[name] = json!(value);
            line["reached"] = json!(target.is_reached(summary.spread.median));
        }
        if !self.point.is_empty() {
            line["point"] = json!(self.point);
        }
        line.to_string()
    }

    pub(crate) fn row(&self) -> String {
        let summary = self.figures.summary();
        let reference = summary.reference.map_or_else(|| "-".to_owned(), shown);
        let ratio = summary
            .ratio
            .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));

        let point: Vec<String> = self
            .point
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let row = format!(
            "{:<18} {:>12} {reference:>12} {ratio:>6} {:>7.2} {:>7.2}  {:<15} {} {}",
            self.measure.name,
            shown(summary.ezq),
            summary.spread.min,
            summary.spread.max,
            self.measure.unit,
            summary.count,
            point.join(", "),
        );
        row.trim_end().to_owned()
    }
}

/// Rounds to the digits that mean something.
fn figure(value: f64) -> Value {
    // Four digits are more than the noise of a machine leaves standing.
    json!(if value.abs() >= 1000.0 {
        value.round()
    } else {
        cut(value)
    })
}

fn shown(value: f64) -> String {
    if value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

fn cut(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_of_one_is_reached_within_what_is_measurable() {
        assert!(Target::AtLeast(1.0).is_reached(0.95));
        assert!(!Target::AtLeast(1.0).is_reached(0.94));
        assert!(!Target::AtLeast(1.1).is_reached(1.09));
        assert!(Target::AtMost(2.0).is_reached(2.0));
    }
}
