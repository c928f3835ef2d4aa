//! What a page says after an action.
//!
//! An action answers with the address of a page, and what was done is a word in it. The texts are here,
//! and not in the address: a link of somebody else's cannot make the dashboard say what it likes.

use axum::http::Uri;
use axum::http::uri::PathAndQuery;

use crate::text::{counted, number};

/// What an action did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Paused,
    WasPaused,
    Resumed,
    WasNotPaused,
    Retried,
    NotRetried,
    Redriven,
    Discarded,
    Begun,
    Cancelled,
    AskedToCancel,
    WasDead,
    MovedOne,
    DiscardedOne,
    Gone,
    Examining,
    Stopped,
    GoesOn,
    Fired,
    Subscribed,
    Unsubscribed,
}

const WORDS: [(Done, &str); 21] = [
    (Done::Paused, "paused"),
    (Done::WasPaused, "was-paused"),
    (Done::Resumed, "resumed"),
    (Done::WasNotPaused, "was-not-paused"),
    (Done::Retried, "retried"),
    (Done::NotRetried, "not-retried"),
    (Done::Redriven, "redriven"),
    (Done::Discarded, "discarded"),
    (Done::Begun, "begun"),
    (Done::Cancelled, "cancelled"),
    (Done::AskedToCancel, "asked-to-cancel"),
    (Done::WasDead, "was-dead"),
    (Done::MovedOne, "moved-one"),
    (Done::DiscardedOne, "discarded-one"),
    (Done::Gone, "gone"),
    (Done::Examining, "examining"),
    (Done::Stopped, "stopped"),
    (Done::GoesOn, "goes-on"),
    (Done::Fired, "fired"),
    (Done::Subscribed, "subscribed"),
    (Done::Unsubscribed, "unsubscribed"),
];

impl Done {
    /// A place with the word for this, and how many it was done to.
    pub(crate) fn at(self, path: &str, count: usize) -> String {
        let word = WORDS.iter().find(|(done, _)| *done == self);
        let word = word.map_or("", |(_, word)| word);
        let mark = if path.contains('?') { '&' } else { '?' };
        format!("{path}{mark}did={word}&count={count}")
    }

    fn says(self, count: u64) -> String {
        match self {
            Self::Paused => "Paused.".to_owned(),
            Self::WasPaused => "It was paused already, so nothing has changed.".to_owned(),
            Self::Resumed => "Resumed.".to_owned(),
            Self::WasNotPaused => "It was not paused.".to_owned(),
            Self::Retried => "The event is due now.".to_owned(),
            Self::NotRetried => "The event does not wait for another attempt.".to_owned(),
            Self::Redriven => format!("{} redriven.", counted(count, "dead letter")),
            Self::Discarded => format!("{} discarded.", counted(count, "dead letter")),
            Self::Begun => "Begun. The progress is shown below.".to_owned(),
            Self::Cancelled => "Cancelled: the event is a dead letter now.".to_owned(),
            Self::AskedToCancel => {
                "A worker has the event, and was asked to cancel it. Look again in some seconds."
                    .to_owned()
            }
            Self::WasDead => "The event is a dead letter already.".to_owned(),
            Self::MovedOne => "The event has moved.".to_owned(),
            Self::DiscardedOne => "The event is deleted.".to_owned(),
            Self::Gone => {
                "There is no such event any more: it was handled, or somebody else acted on it."
                    .to_owned()
            }
            Self::Examining => "The database is examined again.".to_owned(),
            Self::Stopped => {
                "It stops after its present step. What was done stays done.".to_owned()
            }
            Self::GoesOn => "It goes on. The progress is shown below.".to_owned(),
            Self::Fired => "The event of the schedule is published.".to_owned(),
            Self::Subscribed => "Subscribed.".to_owned(),
            Self::Unsubscribed => format!("{} removed.", number(count)),
        }
    }
}

/// The note that the query of a page asks for.
pub(crate) fn of_query(query: &str) -> Option<String> {
    let value = |name: &str| {
        let mut parts = query.split('&').filter_map(|part| part.split_once('='));
        parts.find_map(|(key, value)| (key == name).then_some(value))
    };
    let word = value("did")?;
    let (done, _) = WORDS.iter().find(|(_, known)| *known == word)?;
    let count = value("count").and_then(|count| count.parse().ok());
    Some(done.says(count.unwrap_or_default()))
}

/// An address without the note, for links that lead on from it.
pub(crate) fn without(uri: &Uri) -> String {
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let Some((path, query)) = path.split_once('?') else {
        return path.to_owned();
    };
    let parts = query.split('&');
    let kept: Vec<&str> = parts
        .filter(|part| !part.starts_with("did=") && !part.starts_with("count="))
        .collect();
    match kept.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", kept.join("&")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_has_the_words_of_this_file_only() {
        let place = Done::Redriven.at("/dead", 1_200);
        let query = place.split_once('?').map(|(_, query)| query);
        let note = query.and_then(of_query);
        assert_eq!(note.as_deref(), Some("1,200 dead letters redriven."));
        assert_eq!(of_query("did=call%20me&count=1"), None);
        let uri = Uri::from_static("/dead?type=a&did=redriven&count=2");
        assert_eq!(without(&uri), "/dead?type=a");
    }
}
