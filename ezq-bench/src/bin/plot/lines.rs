//! Draws how a cost grows, as one line for each case: medians with their spread, over what grows.

use crate::figures::{Figure, shown};
use crate::svg::{Anchor, BLUE, INK, PALE, Svg};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 44.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;

/// A plot for each case that has points, by the case's name.
pub(crate) fn growth(figures: &[Figure]) -> Vec<(String, Option<String>)> {
    let mut cases: Vec<&str> = Vec::new();
    for figure in figures.iter().filter(|figure| figure.point().is_some()) {
        if !cases.contains(&figure.case.as_str()) {
            cases.push(&figure.case);
        }
    }
    cases
        .iter()
        .map(|case| ((*case).to_owned(), plot(figures, case)))
        .collect()
}

fn plot(figures: &[Figure], case: &str) -> Option<String> {
    let points: Vec<(&Figure, f64)> = figures
        .iter()
        .filter(|figure| figure.case == case)
        .filter_map(|figure| Some((figure, figure.point()?.1)))
        .collect();
    let (first, least) = *points.first()?;
    let most = points.last()?.1;
    let name = first.point()?.0;
    let top = step(
        points
            .iter()
            .map(|(figure, _)| figure.max)
            .fold(0.0, f64::max)
            // Four lines of a round step each, so that the labels are round as well.
            / 4.0,
    ) * 4.0;
    let x = |value: f64| {
        let share = if most > least {
            // What grows does so tenfold from point to point, and needs a logarithmic scale.
            (value / least).ln() / (most / least).ln()
        } else {
            0.5
        };
        LEFT + (WIDTH - LEFT - RIGHT) * share
    };
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top;

    let mut svg = Svg::new(WIDTH, HEIGHT);
    svg.text(
        16.0,
        24.0,
        Anchor::Start,
        &format!("{case}: {} by {name}", first.unit),
    );
    for quarter in 0..=4 {
        let value = top * f64::from(quarter) / 4.0;
        svg.line((LEFT, y(value)), (WIDTH - RIGHT, y(value)), PALE, 1.0);
        svg.text(LEFT - 8.0, y(value) + 4.0, Anchor::End, &shown(value));
    }
    let medians: Vec<(f64, f64)> = points
        .iter()
        .map(|(figure, value)| (x(*value), y(figure.ezq)))
        .collect();
    for ends in medians.windows(2) {
        svg.line(ends[0], ends[1], BLUE, 2.0);
    }
    for (figure, value) in &points {
        svg.line(
            (x(*value), y(figure.min)),
            (x(*value), y(figure.max)),
            INK,
            1.5,
        );
        svg.dot((x(*value), y(figure.ezq)), BLUE);
        svg.text(
            x(*value),
            HEIGHT - BOTTOM + 20.0,
            Anchor::Middle,
            &shown(*value),
        );
    }
    svg.text(
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 12.0,
        Anchor::Middle,
        name,
    );
    Some(svg.finish())
}

/// The next of 1, 2, 2.5, 5 times a power of ten.
fn step(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|times| times * power);
    steps
        .into_iter()
        .find(|step| *step >= value)
        .unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        assert_eq!(
            [7.0, 21.0, 240.0, 1000.0].map(step),
            [10.0, 25.0, 250.0, 1000.0]
        );
    }
}
