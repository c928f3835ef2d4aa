//! The small chart of a queue's last five minutes, as inline SVG.

use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};

use crate::sample::{Point, TRAIL};
use crate::text;

const WIDTH: f64 = 120.0;
const HEIGHT: f64 = 24.0;
/// So much stays free above and below, for the width of the line.
const MARGIN: f64 = 2.0;
/// Two points that are farther apart are not joined: nobody has looked in between.
const GAP: TimeDelta = TimeDelta::seconds(20);

/// The chart of the ready events, up to `now`. It has numbers in it and nothing that others wrote.
pub(crate) fn svg(points: &[Point], now: DateTime<Utc>) -> String {
    let most = points.iter().map(|point| point.ready).max().unwrap_or(0);
    let last = points.last().map_or(0, |point| point.ready);
    let mut line = String::new();
    let mut area = String::new();

    for run in points.chunk_by(|one, next| next.at - one.at <= GAP) {
        let places: Vec<(f64, f64)> = run.iter().map(|point| place(point, most, now)).collect();
        // A run has at least one point.
        let Some(first) = places.first() else {
            continue;
        };
        let end = places.last().unwrap_or(first);

        // Writing to a text cannot fail.
        let _ = write!(area, "M{:.1} {HEIGHT}", first.0);
        for (index, (x, y)) in places.iter().enumerate() {
            let letter = if index == 0 { 'M' } else { 'L' };
            let _ = write!(line, "{letter}{x:.1} {y:.1}");
            let _ = write!(area, "L{x:.1} {y:.1}");
        }
        // A line of no length, whose round ends make a dot.
        if places.len() == 1 {
            line.push_str("h0");
        }
        let _ = write!(area, "L{:.1} {HEIGHT}Z", end.0);
    }

    format!(
        r#"<svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="ready events of the last five minutes: {} at most, {} now"><path class="area" d="{area}"/><path class="line" d="{line}"/></svg>"#,
        text::number(most),
        text::number(last),
    )
}

// Places in a chart are for people: what a float rounds off is not seen.
#[allow(clippy::cast_precision_loss)]
fn place(point: &Point, most: u64, now: DateTime<Utc>) -> (f64, f64) {
    let age = (now - point.at).num_milliseconds() as f64 / TRAIL.num_milliseconds() as f64;
    let height = match most {
        0 => 0.0,
        most => point.ready as f64 / most as f64,
    };
    let x = WIDTH * (1.0 - age.clamp(0.0, 1.0));
    let y = HEIGHT - MARGIN - height * (HEIGHT - 2.0 * MARGIN);
    (x, y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_without_looks_is_a_gap() {
        let now = Utc::now();
        let at = |seconds_ago: i64, ready| Point {
            at: now - TimeDelta::seconds(seconds_ago),
            ready,
        };
        let chart = svg(&[at(300, 4), at(290, 0), at(10, 2), at(0, 4)], now);
        assert!(
            chart.contains(r#"d="M0.0 2.0L4.0 22.0M116.0 12.0L120.0 2.0""#),
            "{chart}"
        );
        assert!(chart.contains("4 at most, 4 now"));
    }

    #[test]
    fn a_queue_that_was_always_empty_has_a_line_at_the_bottom() {
        let now = Utc::now();
        let point = Point { at: now, ready: 0 };
        assert!(svg(&[point], now).contains(r#"d="M120.0 22.0h0""#));
        assert!(svg(&[], now).contains(r#"class="line" d="""#));
    }
}
