//! How a case's result is shown: a row of a table, or a line of JSON.

use serde_json::{Map, Value, json};

use crate::cases::Case;
use crate::pairs::Pairs;

pub(crate) const TITLE: &str =
    "case                  ezq    reference  ratio     min     max  unit            repetitions";

/// What a case came to, and under which settings.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) pairs: Pairs,
    pub(crate) settings: Map<String, Value>,
}

impl Outcome {
    pub(crate) fn json(&self, case: &Case) -> String {
        let ratios = self.pairs.ratios();
        let line = json!({
            "case": case.name,
            "ezq": self.pairs.ezq().round(),
            "reference": self.pairs.reference().round(),
            "ratio": cut(ratios.median),
            "unit": case.unit,
            "settings": self.settings,
            "repetitions": self.pairs.len(),
            "min": cut(ratios.min),
            "median": cut(ratios.median),
            "max": cut(ratios.max),
        });
        line.to_string()
    }

    pub(crate) fn row(&self, case: &Case) -> String {
        let ratios = self.pairs.ratios();
        format!(
            "{:<12} {:>12.0} {:>12.0} {:>6.2} {:>7.2} {:>7.2}  {:<15} {}",
            case.name,
            self.pairs.ezq(),
            self.pairs.reference(),
            ratios.median,
            ratios.min,
            ratios.max,
            case.unit,
            self.pairs.len(),
        )
    }
}

fn cut(ratio: f64) -> f64 {
    (ratio * 1000.0).round() / 1000.0
}
