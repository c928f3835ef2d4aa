//! The order of a key in a relay's batch.
//!
//! If one event of a key does not go, whatever the cause, those of its key that stand behind it go back to
//! their places as well. Nothing that the sink says of them counts: they are sent again, after it.

use std::collections::HashSet;

use crate::dispatch::batch_member::Member;
use crate::dispatch::run_outcome::RunOutcome;
use crate::handler::outcome::HandlerErrorKind;

/// The keys of which an event stays: what stands behind it stays as well.
#[derive(Default)]
pub(super) struct StayingKeys(HashSet<String>);

impl StayingKeys {
    /// Whether an event must stay.
    pub(super) fn has(&self, member: &Member) -> bool {
        // No key is asked for as long as all go.
        !self.0.is_empty()
            && member
                .received()
                .headers
                .key()
                .is_some_and(|key| self.0.contains(&*key))
    }

    /// Notes that an event stays.
    pub(super) fn add(&mut self, member: &Member) {
        let key = member.received().headers.key();
        self.0.extend(key.map(|key| key.into_owned()));
    }

    /// Keeps the order of an event that has run: it stays if one of its key before it does.
    pub(super) fn follow(&mut self, member: &Member, outcome: RunOutcome) -> RunOutcome {
        if self.has(member) {
            return RunOutcome::Cancelled;
        }
        // One whose lease is lost comes again, whatever became of it here.
        if stays(&outcome) || member.is_cancelled() {
            self.add(member);
        }
        outcome
    }
}

/// Whether the event comes again.
fn stays(outcome: &RunOutcome) -> bool {
    match outcome {
        RunOutcome::Done(..) | RunOutcome::Marked | RunOutcome::Settled => false,
        RunOutcome::Failed(failure) => !matches!(
            failure.error().kind(),
            HandlerErrorKind::Fatal | HandlerErrorKind::Undecodable | HandlerErrorKind::Discard
        ),
        RunOutcome::Cancelled | RunOutcome::Held | RunOutcome::StoreFailed(_) => true,
    }
}
