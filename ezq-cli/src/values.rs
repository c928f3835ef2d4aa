//! How values of the command line are read.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use ezq::admin::EventState;
use ezq::message::ReasonKind;

/// A whole number and a unit: `500ms`, `30s`, `5m`, `2h`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const WRONG: &str = "use a whole number and a unit, as in `500ms`, `30s`, `5m`, `2h` or `7d`";

    // Digits only: no sign and no fraction gets past the unit.
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(WRONG.to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| WRONG.to_owned())?;
    let milliseconds = number.checked_mul(unit).ok_or("it is too long")?;
    Ok(Duration::from_millis(milliseconds))
}

/// A time, or how long ago it was.
pub(crate) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }

    let ago = duration(text).ok();
    ago.and_then(|ago| TimeDelta::from_std(ago).ok())
        .and_then(|ago| Utc::now().checked_sub_signed(ago))
        .ok_or_else(|| {
            "use a time, as in `2026-01-31T12:00:00Z`, or how long ago, as in `2h`".to_owned()
        })
}

/// A time, as RFC 3339 writes it.
pub(crate) fn exact_time(text: &str) -> Result<DateTime<Utc>, String> {
    text.parse()
        .map_err(|_| "use a time, as in `2026-01-31T12:00:00Z`".to_owned())
}

/// How many to list: at least one.
pub(crate) fn limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("use a whole number, at least 1".to_owned()),
        Ok(limit) => Ok(limit),
    }
}

/// The state of an event.
pub(crate) fn state(text: &str) -> Result<EventState, String> {
    text.parse().map_err(|error: ezq::Error| error.to_string())
}

/// The reasons by which a dead letter can be selected.
const REASONS: [ReasonKind; 9] = [
    ReasonKind::Fatal,
    ReasonKind::MaxAttempts,
    ReasonKind::Undecodable,
    ReasonKind::UnknownType,
    ReasonKind::NewerVersion,
    ReasonKind::MaxDeliveries,
    ReasonKind::StoreFailed,
    ReasonKind::Operator,
    ReasonKind::Cancelled,
];

/// Why a dead letter died, by the name that ezq stores.
pub(crate) fn reason(text: &str) -> Result<ReasonKind, String> {
    let found = REASONS.iter().find(|reason| reason.to_string() == text);
    found.copied().ok_or_else(|| {
        let known = REASONS.map(|reason| reason.to_string());
        format!("use one of {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        for wrong in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            "1.5h",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_is_one_or_how_long_ago_it_was() {
        let exact = time("2026-01-31T12:00:00+01:00").unwrap();
        assert_eq!(exact.to_rfc3339(), "2026-01-31T11:00:00+00:00");

        let ago = Utc::now() - time("2h").unwrap();
        assert!(
            (ago - TimeDelta::hours(2)).abs() < TimeDelta::minutes(1),
            "{ago}"
        );
        for wrong in ["", "yesterday", "2026-01-31", "999999999d"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_reason_is_one_that_ezq_stores() {
        assert_eq!(reason("max_attempts"), Ok(ReasonKind::MaxAttempts));
        assert!(reason("Fatal").unwrap_err().contains("fatal, max_attempts"));
    }
}
