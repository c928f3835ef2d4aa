//! Runs of ezq and of its reference in turn: A B A B, so that whatever slows the machine for a
//! while slows both.

use std::future::Future;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::Result;

/// What the runs came to, in events a second, in the order they were made.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    ezq: Vec<f64>,
    reference: Vec<f64>,
}

impl Pairs {
    /// Measures so many pairs, after one pair that only warms up. A run is told its number and
    /// answers how long it took for how many events.
    pub(crate) async fn measure<E, R>(
        case: &str,
        pairs: usize,
        mut ezq: impl FnMut(usize) -> E,
        mut reference: impl FnMut(usize) -> R,
    ) -> Result<Self>
    where
        E: Future<Output = Result<Run>>,
        R: Future<Output = Result<Run>>,
    {
        let bar = ProgressBar::new(2 * (pairs as u64 + 1)).with_prefix(case.to_owned());
        let style = "{prefix} {elapsed_precise} [{wide_bar}] run {pos} of {len} {msg}";
        bar.set_style(ProgressStyle::with_template(style)?);
        bar.enable_steady_tick(Duration::from_millis(250));
        let mut measured = Self::default();
        for n in 0..=pairs {
            let first = ezq(n).await?.rate();
            bar.inc(1);
            let second = reference(n).await?.rate();
            bar.inc(1);
            bar.set_message(format!("ratio {:.2}", first / second));
            if n > 0 {
                measured.ezq.push(first);
                measured.reference.push(second);
            }
        }
        bar.finish_and_clear();
        Ok(measured)
    }

    pub(crate) fn len(&self) -> usize {
        self.ezq.len()
    }

    pub(crate) fn ezq(&self) -> f64 {
        median(&sorted(&self.ezq))
    }

    pub(crate) fn reference(&self) -> f64 {
        median(&sorted(&self.reference))
    }

    /// How the ratios of the pairs lie.
    pub(crate) fn ratios(&self) -> Spread {
        let ratios = self.ezq.iter().zip(&self.reference).map(|(ezq, reference)| ezq / reference);
        Spread::of(&ratios.collect::<Vec<_>>())
    }
}

/// How several values lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Self {
        let values = sorted(values);
        let end = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        Self { min: end(values.first()), median: median(&values), max: end(values.last()) }
    }
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) events: usize,
    pub(crate) took: Duration,
}

impl Run {
    fn rate(self) -> f64 {
        self.events as f64 / self.took.as_secs_f64()
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted {
        [] => f64::NAN,
        _ if sorted.len() % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_ratios_counts_and_not_the_ratio_of_the_medians() {
        let pairs = Pairs { ezq: vec![10.0, 30.0, 20.0], reference: vec![20.0, 10.0, 10.0] };
        assert_eq!(pairs.ratios(), Spread { min: 0.5, median: 2.0, max: 3.0 });
        assert_eq!((pairs.ezq(), pairs.reference()), (20.0, 10.0));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert!((median(&[1.0, 2.0, 4.0, 9.0]) - 3.0).abs() < f64::EPSILON);
    }
}
