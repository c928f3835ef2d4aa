//! Draws the ratios of ezq to its references as bars, with their spread and their targets.

use crate::figures::{Figure, shown};
use crate::svg::{Anchor, BAD, BLUE, GOOD, INK, PALE, Svg};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 160.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 56.0;
const ROW: f64 = 28.0;
/// Ratios lie on a logarithmic scale: half as fast is as far from 1 as twice as fast.
const TICKS: [f64; 10] = [0.1, 0.2, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0];

/// The bars of all rates that have a reference, if there are any.
pub(crate) fn ratios(figures: &[Figure]) -> Option<String> {
    let rows: Vec<(&Figure, f64)> = figures
        .iter()
        .filter(|figure| figure.unit == "events/s")
        .filter_map(|figure| Some((figure, figure.ratio?)))
        .collect();
    let values = rows
        .iter()
        .flat_map(|(row, _)| [row.min, row.max, row.at_least.unwrap_or(1.0)]);
    let (low, high) = values.fold((0.8_f64, 1.5_f64), |(low, high), value| {
        (low.min(value * 0.9), high.max(value * 1.1))
    });
    let place = |ratio: f64| LEFT + (WIDTH - LEFT - RIGHT) * (ratio / low).ln() / (high / low).ln();

    let bottom = TOP + ROW * rows.len() as f64;
    let mut svg = Svg::new(WIDTH, bottom + 40.0);
    svg.text(
        16.0,
        24.0,
        Anchor::Start,
        "Events a second, ezq to its reference: median, least to most; the mark is what is to be reached",
    );

    for tick in TICKS.into_iter().filter(|tick| (low..=high).contains(tick)) {
        svg.line((place(tick), TOP - 8.0), (place(tick), bottom), PALE, 1.0);
        svg.text(
            place(tick),
            bottom + 18.0,
            Anchor::Middle,
            &tick.to_string(),
        );
    }

    for (index, (row, ratio)) in rows.iter().enumerate() {
        let y = TOP + ROW * index as f64;
        let middle = y + ROW / 2.0 - 3.0;
        let colour = match row.reached {
            Some(true) => GOOD,
            Some(false) => BAD,
            None => BLUE,
        };
        svg.text(LEFT - 12.0, middle + 4.0, Anchor::End, &row.case);
        svg.bar((place(1.0), place(*ratio)), y + 3.0, ROW - 12.0, colour);
        svg.line((place(row.min), middle), (place(row.max), middle), INK, 1.5);
        if let Some(target) = row.at_least {
            svg.line((place(target), y), (place(target), y + ROW - 6.0), INK, 3.0);
        }
        svg.text(
            WIDTH - RIGHT + 12.0,
            middle + 4.0,
            Anchor::Start,
            &shown(*ratio),
        );
    }

    // The line at 1 lies over the bars.
    svg.line((place(1.0), TOP - 8.0), (place(1.0), bottom), INK, 1.0);
    (!rows.is_empty()).then(|| svg.finish())
}
