//! How a case's result is shown: a row of a table, or a line of JSON.

use serde_json::{Map, Value, json};

use crate::cases::Case;
use crate::pairs::{Pairs, Spread};

pub(crate) const TITLE: &str =
    "case                  ezq    reference  ratio     min     max  unit            repetitions";

/// What a case came to, and under which settings.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) figures: Figures,
    pub(crate) settings: Map<String, Value>,
}

/// What was measured.
#[derive(Debug)]
pub(crate) enum Figures {
    /// Against a reference.
    Pairs(Pairs),
    /// By itself, repeated.
    Alone(Vec<f64>),
}

impl Outcome {
    pub(crate) fn json(&self, case: &Case) -> String {
        let mut line = match &self.figures {
            Figures::Pairs(pairs) => {
                let ratios = pairs.ratios();
                json!({
                    "ezq": pairs.ezq().round(),
                    "reference": pairs.reference().round(),
                    "ratio": cut(ratios.median),
                    "repetitions": pairs.len(),
                    "min": cut(ratios.min),
                    "median": cut(ratios.median),
                    "max": cut(ratios.max),
                })
            }
            Figures::Alone(values) => {
                let spread = Spread::of(values);
                json!({
                    "ezq": cut(spread.median),
                    "reference": null,
                    "ratio": null,
                    "repetitions": values.len(),
                    "min": cut(spread.min),
                    "median": cut(spread.median),
                    "max": cut(spread.max),
                })
            }
        };
        line["case"] = json!(case.name);
        line["unit"] = json!(case.unit);
        line["settings"] = json!(self.settings);
        line.to_string()
    }

    pub(crate) fn row(&self, case: &Case) -> String {
        let (ezq, reference, ratio, spread, count) = match &self.figures {
            Figures::Pairs(pairs) => {
                let ratios = pairs.ratios();
                let (ezq, reference) =
                    (format!("{:.0}", pairs.ezq()), format!("{:.0}", pairs.reference()));
                (ezq, reference, format!("{:.2}", ratios.median), ratios, pairs.len())
            }
            Figures::Alone(values) => {
                let spread = Spread::of(values);
                let none = || "-".to_owned();
                (format!("{:.2}", spread.median), none(), none(), spread, values.len())
            }
        };
        format!(
            "{:<12} {ezq:>12} {reference:>12} {ratio:>6} {:>7.2} {:>7.2}  {:<15} {count}",
            case.name, spread.min, spread.max, case.unit,
        )
    }
}

fn cut(ratio: f64) -> f64 {
    (ratio * 1000.0).round() / 1000.0
}
