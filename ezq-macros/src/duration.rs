//! Reads durations as attributes write them: a whole number and one unit.

use std::time::Duration;

/// The part of every error that says how a duration is written.
pub(crate) const FORM: &str =
    "write a whole number and a unit (ms, s, m, h or d), such as \"500ms\", \"30s\" or \"5m\"";

/// Reads `500ms`, `30s`, `5m`, `1h`, `2d`.
///
/// # Errors
///
/// If the text has another form, is zero, or exceeds a `u64` of milliseconds. The error's text says
/// what to write.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    // ASCII digits only: `parse` below knows no others.
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);

    let millis_per_unit: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("\"{text}\" is not a duration: {FORM}")),
    };
    if number.is_empty() {
        return Err(format!("\"{text}\" is not a duration: {FORM}"));
    }

    let millis = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(millis_per_unit))
        .ok_or_else(|| format!("\"{text}\" is too long a duration"))?;
    if millis == 0 {
        return Err(format!("a duration of zero is not allowed: {FORM}"));
    }
    Ok(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse("1h"), Ok(Duration::from_secs(3_600)));
        assert_eq!(parse("2d"), Ok(Duration::from_secs(172_800)));
    }

    #[test]
    fn refuses_other_forms_and_says_the_accepted_one() {
        for text in [
            "", "30", "s", "30 s", "1.5s", "-1s", "30sec", "1h30m", "٣s", "30S",
        ] {
            let message = parse(text).expect_err(text);
            assert!(message.contains(FORM), "{text}: {message}");
        }
    }

    #[test]
    fn refuses_zero_and_overflow() {
        assert!(parse("0s").expect_err("zero").contains("zero"));
        assert!(
            parse("99999999999999999999d")
                .expect_err("digits")
                .contains("too long")
        );
        assert!(
            parse("18446744073709551615d")
                .expect_err("product")
                .contains("too long")
        );
    }
}
