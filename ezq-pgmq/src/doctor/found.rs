//! What a check returns, and how it writes numbers.

use ezq_core::engine::Finding;

/// At least one finding, or what kept the check from one.
pub(super) type Found = Result<Vec<Finding>, sqlx::Error>;

/// A number of things, for a text.
pub(super) fn counted(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// A duration for people: whole seconds, minutes, hours or days.
pub(super) fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
