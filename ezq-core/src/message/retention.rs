//! What becomes of an event once it is handled.

use std::time::Duration;

/// What becomes of acknowledged events of a queue; set for each queue, on the application
/// ([`AppBuilder::retention`](crate::AppBuilder::retention)) or on its engine.
///
/// Only what handlers are done with is meant: dead letters are kept until someone redrives or
/// discards them, and what is cancelled or purged is gone. Control events (`End`, `Interrupt`) are
/// deleted in any case.
///
/// ```
/// use std::time::Duration;
/// use ezq_core::Retention;
///
/// assert_eq!(Retention::default(), Retention::Delete);
/// let month = Retention::archive_for(Duration::from_secs(30 * 24 * 3600));
/// assert!(month.is_archive() && Retention::ARCHIVE.keep().is_none());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retention {
    /// They are deleted.
    #[default]
    Delete,
    /// They move to the queue's archive, with their headers, in the step that acknowledges them.
    Archive {
        /// For how long they are kept there, more than nothing; `None` is for ever.
        keep: Option<Duration>,
    },
    /// They are deleted, and a line in the trail tells what became of them, in the step that
    /// acknowledges them: id, type, times, deliveries, and what their handlers had to be tried again
    /// for. Nothing of what they said is kept.
    Trail {
        /// For how long the line is kept, more than nothing; `None` is for ever.
        keep: Option<Duration>,
    },
}

impl Retention {
    /// Archive, and keep for ever.
    pub const ARCHIVE: Self = Self::Archive { keep: None };

    /// Archive, and keep for a time.
    #[must_use]
    pub const fn archive_for(keep: Duration) -> Self {
        Self::Archive { keep: Some(keep) }
    }

    /// Delete, and keep a line in the trail for ever.
    pub const TRAIL: Self = Self::Trail { keep: None };

    /// Delete, and keep a line in the trail for a time.
    #[must_use]
    pub const fn trail_for(keep: Duration) -> Self {
        Self::Trail { keep: Some(keep) }
    }

    /// Whether acknowledged events are archived.
    #[must_use]
    pub const fn is_archive(self) -> bool {
        matches!(self, Self::Archive { .. })
    }

    /// For how long the archive, or the trail, keeps an event, if it has a limit.
    #[must_use]
    pub const fn keep(self) -> Option<Duration> {
        match self {
            Self::Archive { keep } | Self::Trail { keep } => keep,
            Self::Delete => None,
        }
    }
}
