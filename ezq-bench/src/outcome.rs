//! How a case's result is shown: a row of a table, or a line of JSON.

use serde_json::{Map, Value, json};

use crate::cases::Case;
use crate::pairs::{Pairs, Spread};

pub(crate) const TITLE: &str =
    "case                    ezq    reference  ratio     min     max  unit            repetitions";

/// What a case, or a part of one, came to, and under which settings.
#[derive(Debug)]
pub(crate) struct Outcome {
    name: String,
    unit: &'static str,
    target: Option<Target>,
    figures: Figures,
    settings: Map<String, Value>,
    /// Where it lies, of a case that measures how something grows.
    point: Map<String, Value>,
}

/// What was measured.
#[derive(Debug)]
pub(crate) enum Figures {
    /// Against a reference.
    Pairs(Pairs),
    /// By itself, repeated.
    Alone(Vec<f64>),
}

/// What the ratio, or without a reference the figure itself, is to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn is_reached(self, value: f64) -> bool {
        match self {
            // To be as fast is to be so within what the machine's moods leave open.
            Self::AtLeast(least) => value >= if least == 1.0 { 0.95 } else { least },
            Self::AtMost(most) => value <= most,
        }
    }
}

impl Outcome {
    pub(crate) fn of(case: &Case, figures: Figures, settings: Map<String, Value>) -> Self {
        Self {
            name: case.name.to_owned(),
            unit: case.unit,
            target: case.target,
            figures,
            settings,
            point: Map::new(),
        }
    }

    /// As a part of its case, under a name and a target of its own.
    pub(crate) fn part(mut self, name: &str, target: Option<Target>) -> Self {
        name.clone_into(&mut self.name);
        self.target = target;
        self
    }

    /// As a point of what grows.
    pub(crate) fn at(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.point.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn json(&self) -> String {
        let (ezq, reference, ratio, spread, count) = match &self.figures {
            Figures::Pairs(pairs) => {
                let ratios = pairs.ratios();
                let (ezq, reference) = (pairs.ezq(), figure(pairs.reference()));
                (
                    ezq,
                    reference,
                    json!(cut(ratios.median)),
                    ratios,
                    pairs.len(),
                )
            }
            Figures::Alone(values) => {
                let spread = Spread::of(values);
                (
                    spread.median,
                    Value::Null,
                    Value::Null,
                    spread,
                    values.len(),
                )
            }
        };
        let mut line = json!({
            "case": self.name,
            "unit": self.unit,
            "ezq": figure(ezq),
            "reference": reference,
            "ratio": ratio,
            "repetitions": count,
            "min": cut(spread.min),
            "median": cut(spread.median),
            "max": cut(spread.max),
            "settings": self.settings,
        });
        if let Some(target) = self.target {
            let (name, value) = match target {
                Target::AtLeast(value) => ("at_least", value),
                Target::AtMost(value) => ("at_most", value),
            };
            line[name] = json!(value);
            line["reached"] = json!(target.is_reached(spread.median));
        }
        if !self.point.is_empty() {
            line["point"] = json!(self.point);
        }
        line.to_string()
    }

    pub(crate) fn row(&self) -> String {
        let (ezq, reference, ratio, spread, count) = match &self.figures {
            Figures::Pairs(pairs) => {
                let ratios = pairs.ratios();
                let (ezq, reference) = (pairs.ezq(), shown(pairs.reference()));
                (
                    ezq,
                    reference,
                    format!("{:.2}", ratios.median),
                    ratios,
                    pairs.len(),
                )
            }
            Figures::Alone(values) => {
                let spread = Spread::of(values);
                (
                    spread.median,
                    "-".to_owned(),
                    "-".to_owned(),
                    spread,
                    values.len(),
                )
            }
        };
        let point: Vec<String> = self
            .point
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let row = format!(
            "{:<18} {:>12} {reference:>12} {ratio:>6} {:>7.2} {:>7.2}  {:<15} {count} {}",
            self.name,
            shown(ezq),
            spread.min,
            spread.max,
            self.unit,
            point.join(", "),
        );
        row.trim_end().to_owned()
    }
}

/// As many digits as mean something.
fn figure(value: f64) -> Value {
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
