//! What becomes of an event once it is handled.

use std::time::Duration;

/// What becomes of the acknowledged events of a queue. Set it for each queue, on the application
/// ([`AppBuilder::retention`](crate::app::AppBuilder::retention)) or on its engine.
///
/// It applies only to events whose handlers are done. Dead letters are kept until someone redrives or
/// discards them. Events that are cancelled or purged are gone, and so are control events (`End`,
/// `Interrupt`).
///
/// ```
/// use std::time::Duration;
/// use ezq_core::message::Retention;
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
        /// How long they are kept there, longer than zero; `None` means for ever.
        keep: Option<Duration>,
    },
    /// They are deleted, and a line is added to the trail, in the step that acknowledges them. The line
    /// has the event's id, type, times and deliveries, and the errors for which handlers were retried.
    /// It has none of the event's data.
    Trail {
        /// How long the line is kept, longer than zero; `None` means for ever.
        keep: Option<Duration>,
    },
}

impl Retention {
    /// Archive for ever.
    pub const ARCHIVE: Self = Self::Archive { keep: None };

    /// Archive for a time.
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

    /// How long the archive or the trail keeps an event; `None` if there is no limit, or neither.
    #[must_use]
    pub const fn keep(self) -> Option<Duration> {
        match self {
            Self::Archive { keep } | Self::Trail { keep } => keep,
            Self::Delete => None,
        }
    }
}
