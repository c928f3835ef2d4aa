//! Runs of ezq and of its reference in turn: A B, B A, A B. Whatever slows the machine for a while slows
//! both, and neither has the advantage of always running second.

use std::future::Future;
use std::time::Duration;

use crate::error::{Result, TooFewEvents};
use crate::progress::bar;

/// The figures of all pairs, in the order in which they were measured: events a second, unless a case
/// says otherwise.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    ezq: Vec<f64>,
    reference: Vec<f64>,
}

impl Pairs {
    /// Measures the pairs, after one more that only warms up. A run gets the number of its pair.
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
        let bar = bar(case, 2 * (pairs + 1))?;
        let mut measured = Self::default();
        for n in 0..=pairs {
            let mut rates = (0.0, 0.0);
            // Even pairs begin with ezq, odd ones with the reference.
            for is_second in [false, true] {
                if is_second == (n % 2 == 1) {
                    // The number of the pair is part of its queues' names, so no two runs share one.
                    rates.0 = ezq(n).await?.rate()?;
                } else {
                    rates.1 = reference(n).await?.rate()?;
                }
                bar.inc(1);
            }

            bar.set_message(format!("ratio {:.2}", rates.0 / rates.1));
            // The first pair only warms up.
            if n > 0 {
                measured.push(rates.0, rates.1);
            }
        }
        bar.finish_and_clear();
        Ok(measured)
    }

    /// Adds a pair.
    pub(crate) fn push(&mut self, ezq: f64, reference: f64) {
        self.ezq.push(ezq);
        self.reference.push(reference);
    }

    pub(crate) fn len(&self) -> usize {
        self.ezq.len()
    }

    pub(crate) fn ezq(&self) -> f64 {
        Spread::of(&self.ezq).median
    }

    pub(crate) fn reference(&self) -> f64 {
        Spread::of(&self.reference).median
    }

    /// The spread of the pairs' ratios.
    pub(crate) fn ratios(&self) -> Spread {
        let ratios = self
            .ezq
            .iter()
            .zip(&self.reference)
            .map(|(ezq, reference)| ezq / reference);
        Spread::of(&ratios.collect::<Vec<_>>())
    }
}

/// The smallest, the median and the largest of several values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut values = values.to_vec();
        // A total order: `NaN` sorts last instead of upsetting the others.
        values.sort_by(f64::total_cmp);
        Self {
            min: values.first().copied().unwrap_or(f64::NAN),
            median: median(&values),
            max: values.last().copied().unwrap_or(f64::NAN),
        }
    }
}

/// One run: how many events were handled in which time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) events: usize,
    pub(crate) took: Duration,
}

impl Run {
    /// Events a second.
    ///
    /// # Errors
    ///
    /// [`TooFewEvents`] for a run that had no events or took no time.
    pub(crate) fn rate(self) -> Result<f64> {
        if self.events == 0 || self.took.is_zero() {
            return Err(TooFewEvents.into());
        }
        Ok(self.events as f64 / self.took.as_secs_f64())
    }
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted {
        [] => f64::NAN,
        _ if sorted.len() % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The smallest of the values that at least so many hundredths of the values do not exceed.
pub(crate) fn percentile(values: &[f64], hundredth: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let place = (values.len() * hundredth).div_ceil(100).saturating_sub(1);
    values.get(place).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn the_median_of_the_ratios_counts_and_not_the_ratio_of_the_medians() {
        let pairs = Pairs {
            ezq: vec![10.0, 30.0, 20.0],
            reference: vec![20.0, 10.0, 10.0],
        };
        assert_eq!(
            pairs.ratios(),
            Spread {
                min: 0.5,
                median: 2.0,
                max: 3.0
            }
        );
        assert_eq!((pairs.ezq(), pairs.reference()), (20.0, 10.0));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert!((median(&[1.0, 2.0, 4.0, 9.0]) - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_percentile_is_a_value_that_was_seen() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(
            [50, 99, 100].map(|p| percentile(&values, p)),
            [100.0, 198.0, 200.0]
        );
        assert!(percentile(&[], 50).is_nan());
    }

    #[tokio::test]
    async fn a_run_that_took_no_time_is_refused() {
        let run = |events, took| async move { Ok(Run { events, took }) };
        let second = Duration::from_secs(1);
        for (events, took) in [(40, Duration::ZERO), (0, second)] {
            let measured = Pairs::measure("", 1, |_| run(40, second), |_| run(events, took)).await;
            assert!(measured.unwrap_err().is::<TooFewEvents>());
        }
    }

    #[tokio::test]
    async fn both_come_first_in_turn_and_the_first_pair_only_warms_up() {
        let order = RefCell::new(String::new());
        let run = |name: char, events: usize| {
            order.borrow_mut().push(name);
            std::future::ready(Ok(Run {
                events,
                took: Duration::from_secs(1),
            }))
        };
        let pairs = Pairs::measure("", 3, |n| run('a', 10 * n.max(1)), |_| run('b', 10))
            .await
            .unwrap();
        assert_eq!(*order.borrow(), "abbaabba");
        assert_eq!(
            pairs.ratios(),
            Spread {
                min: 1.0,
                median: 2.0,
                max: 3.0
            }
        );
    }
}
