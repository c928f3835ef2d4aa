//! [`AckSubject`]: where a delivery is answered, which says what the server knows of it.

/// What the subject says to which a delivery is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AckSubject {
    /// How often the server has delivered the message, this time included.
    pub(crate) delivered: u32,
    /// How many messages its consumer has handed out, this one included.
    pub(crate) given: i64,
    /// The message's number in its stream.
    pub(crate) sequence: i64,
    /// When it was stored, in nanoseconds.
    pub(crate) stored_at: i64,
}

impl AckSubject {
    /// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer's>.<time>.<pending>`, which may
    /// have two parts more behind `$JS.ACK`. Source: NATS's ADR-15.
    pub(crate) fn read(subject: &str) -> Option<Self> {
        let shift = match subject.bytes().filter(|byte| *byte == b'.').count() + 1 {
            9 => 0,
            11.. => 2,
            _ => return None,
        };
        let mut parts = subject.split('.').skip(4 + shift);
        Some(Self {
            delivered: parts.next()?.parse().ok()?,
            sequence: parts.next()?.parse().ok()?,
            given: parts.next()?.parse().ok()?,
            stored_at: parts.next()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_subject_are_read() {
        let wanted = AckSubject {
            delivered: 2,
            sequence: 40,
            given: 41,
            stored_at: 1_795_785_185_105_589_040,
        };
        for subject in [
            "$JS.ACK.ezq_a.workers.2.40.41.1795785185105589040.0",
            "$JS.ACK._.hash.ezq_a.workers.2.40.41.1795785185105589040.0",
            "$JS.ACK._.hash.ezq_a.workers.2.40.41.1795785185105589040.0.token",
        ] {
            assert_eq!(AckSubject::read(subject), Some(wanted), "{subject}");
        }
        assert_eq!(AckSubject::read("_INBOX.a.b"), None);
    }
}
