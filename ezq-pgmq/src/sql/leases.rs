//! The end of a lease, and the sign in it that tells who holds the message.
//!
//! A lease ends at a multiple of [`STEP`], plus its holder's sign in microseconds. So `vt` says whose the
//! lease is, and a claim writes nothing more than it did. The end is computed once for each statement. It
//! is never earlier than asked, and by less than [`STEP`] later: a holder that counts from before it asked
//! stops before it.
//!
//! Signs are odd and below [`STEP`]. A lease of another client ends at any microsecond: that it seems to
//! be of one given sign has a probability of 1 in 262,144.

use crate::sql;

/// The distance of two ends without their signs, in microseconds: 0.26 s.
const STEP: i32 = 1 << 18;

/// A number that tells the leases of one engine from those of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Sign(i32);

impl Sign {
    /// The sign with a number; `None` if no sign has it.
    pub(crate) fn new(number: i32) -> Option<Self> {
        (number % 2 == 1 && number < STEP).then_some(Self(number))
    }

    /// Any sign.
    pub(crate) fn random() -> Self {
        Self(2 * rand::random_range(0..STEP / 2) + 1)
    }

    pub(crate) fn number(self) -> i32 {
        self.0
    }
}

/// The end of a lease that begins now. `micros` is its length in microseconds.
pub(crate) fn end(micros: &str, sign: Option<Sign>) -> String {
    let end = format!("pg_catalog.clock_timestamp() + {micros} * interval '1 us'");
    match sign {
        None => format!("(SELECT {end})"),
        // The first time from then on that has this sign.
        Some(Sign(number)) => format!(
            "(SELECT pg_catalog.date_bin('{STEP} us', {end} + interval '{} us', 'epoch'::timestamptz) \
              + interval '{number} us')",
            STEP - 1 - number
        ),
    }
}

/// The number of the sign in the end of a row's lease. What is no lease of ezq's has some number, too.
pub(crate) fn sign_of(row: &str) -> String {
    format!(
        "CASE WHEN pg_catalog.isfinite({row}.vt) \
         THEN ((extract(epoch FROM {row}.vt) * 1000000)::bigint % {STEP})::integer END"
    )
}

/// A row was delivered and not put back since.
pub(crate) fn is_delivered(row: &str) -> String {
    let returned = sql::returned(&format!("{row}.headers"));
    format!("{row}.read_ct > 0 AND {returned} < {row}.read_ct")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sign_is_odd_and_fits() {
        for number in [1, 3, STEP - 1, Sign::random().number()] {
            assert_eq!(Sign::new(number).map(Sign::number), Some(number));
        }
        for number in [-1, 0, 2, STEP, STEP + 1] {
            assert_eq!(Sign::new(number), None, "{number}");
        }
    }
}
