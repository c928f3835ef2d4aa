//! What an operator can do to all events that match, as it stands in an address and on a button.

use ezq::QueueName;
use ezq::admin::{BulkEvents, BulkRequest, EventAction, EventState};

/// What is done to events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Redrive,
    RetryNow,
    Move,
    Discard,
}

impl Verb {
    pub(crate) const ALL: [Self; 4] = [Self::Redrive, Self::RetryNow, Self::Move, Self::Discard];

    pub(crate) fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == text)
    }

    pub(crate) fn of_action(action: &EventAction) -> Self {
        match action {
            EventAction::Redrive => Self::Redrive,
            EventAction::RetryNow => Self::RetryNow,
            EventAction::Move { .. } => Self::Move,
            // An action that a later version adds has no button here.
            _ => Self::Discard,
        }
    }

    /// Its name in an address.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::RetryNow => "retry",
            Self::Move => "move",
            Self::Discard => "discard",
        }
    }

    /// Its name on a button.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Redrive => "Redrive",
            Self::RetryNow => "Retry now",
            Self::Move => "Move",
            Self::Discard => "Discard",
        }
    }

    pub(crate) fn is_danger(self) -> bool {
        self == Self::Discard
    }

    /// What it does, for a preview.
    pub(crate) fn says(self) -> &'static str {
        match self {
            Self::Redrive => {
                "They go back to the queue. Handlers that were done stay done, and those that failed begin \
                 with their first attempt."
            }
            Self::RetryNow => "They are due at once. Their attempts so far still count.",
            Self::Move => {
                "They go to another queue and are the newest there. Handlers that were done stay done, \
                 others begin with their first attempt."
            }
            Self::Discard => {
                "They are deleted for good. Nothing of them goes to an archive or a trail."
            }
        }
    }

    /// Whether it fits events in a state.
    pub(crate) fn fits(self, state: EventState) -> bool {
        let action = match self {
            Self::Redrive => EventAction::Redrive,
            Self::RetryNow => EventAction::RetryNow,
            // What can be discarded can be moved: neither asks for more than that nobody has leased it.
            Self::Move | Self::Discard => EventAction::Discard,
        };
        action.check(state).is_ok()
    }

    /// The order to do it to a selection; `to` is where events move to.
    pub(crate) fn order<'a>(self, events: BulkEvents<'a>, to: &QueueName) -> BulkRequest<'a> {
        match self {
            Self::Redrive => events.redrive(),
            Self::RetryNow => events.retry_now(),
            Self::Move => events.move_to(to),
            Self::Discard => events.discard(),
        }
    }
}

/// Events in a state, with their number: `1 dead letter`, `10,000 retrying events`.
pub(crate) fn noun(state: EventState, count: u64) -> String {
    match state {
        EventState::Dead => crate::text::counted(count, "dead letter"),
        _ => crate::text::counted(count, &format!("{state} event")),
    }
}

/// Events in a state, without a number.
pub(crate) fn plural(state: EventState) -> String {
    match state {
        EventState::Dead => "dead letters".to_owned(),
        _ => format!("{state} events"),
    }
}
