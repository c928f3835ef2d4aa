//! Reads the lines that the benchmarks print.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::error::Result;

/// One line.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Figure {
    pub(crate) case: String,
    pub(crate) unit: String,
    pub(crate) ezq: f64,
    pub(crate) reference: Option<f64>,
    pub(crate) ratio: Option<f64>,
    pub(crate) repetitions: usize,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) at_least: Option<f64>,
    pub(crate) at_most: Option<f64>,
    pub(crate) reached: Option<bool>,
    #[serde(default)]
    pub(crate) settings: BTreeMap<String, Value>,
    /// In a case that measures how a cost grows: the name of what grows, and how much of it there is.
    #[serde(default)]
    pub(crate) point: BTreeMap<String, f64>,
}

impl Figure {
    /// What grows, and how much of it there is here.
    pub(crate) fn point(&self) -> Option<(&str, f64)> {
        self.point
            .iter()
            .next()
            .map(|(name, value)| (name.as_str(), *value))
    }
}

/// Reads the lines in their order. The last line of a case and point replaces the earlier ones.
pub(crate) fn read(text: &str) -> Result<Vec<Figure>> {
    let mut figures: Vec<Figure> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let figure: Figure =
            serde_json::from_str(line).map_err(|error| format!("`{line}`: {error}"))?;
        let earlier = figures
            .iter_mut()
            .find(|earlier| earlier.case == figure.case && earlier.point == figure.point);
        match earlier {
            Some(earlier) => *earlier = figure,
            None => figures.push(figure),
        }
    }
    if figures.is_empty() {
        Err("there is no figure in it".into())
    } else {
        Ok(figures)
    }
}

/// Rounds to the digits that mean something.
pub(crate) fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => thousands(value),
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_case_counts() {
        let line = |ezq: f64| {
            format!(
                r#"{{"case":"a","unit":"s","ezq":{ezq},"reference":null,"ratio":null,"repetitions":1,"min":1,"max":2}}"#
            )
        };
        let figures = read(&format!("{}\n\n{}\n", line(1.0), line(2.5))).unwrap();
        assert_eq!(figures.len(), 1);
        assert_eq!(shown(figures[0].ezq), "2.50");
        assert!(read("").is_err());
        assert!(read("{}").is_err());
    }

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!(
            [1000.0, 1_234_567.4, -52_000.0].map(shown),
            ["1,000", "1,234,567", "-52,000"]
        );
    }
}
