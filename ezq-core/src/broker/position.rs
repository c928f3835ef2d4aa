//! [`SourcePosition`]: where a message stands in its partition.

use std::fmt;

/// Where a message stands in its partition: positions rise in the order in which the broker hands
/// messages out, and none comes twice.
///
/// It is a pair of numbers, compared by the first and then by the second. A Kafka offset or a NATS sequence
/// is the first number; an id of a Redis stream is both. The database compares them in the same way.
///
/// ```
/// use ezq_core::broker::SourcePosition;
///
/// let offset = SourcePosition::from(41);
/// assert!(offset < SourcePosition::from(42));
/// assert_eq!(offset.to_string(), "41");
///
/// let entry = SourcePosition::new(1_764_241_200_000, 3);
/// assert_eq!(entry.to_string(), "1764241200000-3");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePosition {
    // The order of the fields is the order of comparison.
    major: u64,
    minor: u64,
}

impl SourcePosition {
    /// A position of two numbers, such as the time and the sequence of an entry in a Redis stream.
    #[must_use]
    pub const fn new(major: u64, minor: u64) -> Self {
        Self { major, minor }
    }

    /// The number that is compared first.
    #[must_use]
    pub const fn major(self) -> u64 {
        self.major
    }

    /// The number that is compared where the first is the same; 0 for a position of one number.
    #[must_use]
    pub const fn minor(self) -> u64 {
        self.minor
    }
}

/// A position of one number, such as an offset or a sequence.
impl From<u64> for SourcePosition {
    fn from(number: u64) -> Self {
        Self::new(number, 0)
    }
}

/// The first number, and the second if it is not 0.
impl fmt::Display for SourcePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            0 => write!(f, "{}", self.major),
            minor => write!(f, "{}-{minor}", self.major),
        }
    }
}
