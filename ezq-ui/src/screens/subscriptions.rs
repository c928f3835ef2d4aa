//! Subscriptions: which queues get copies of which broadcast events, and a box to try a type.

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use ezq::admin::EventParties;
use serde::Deserialize;

use crate::board::Board;
use crate::failure::Failure;
use crate::frame::{Frame, render};
use crate::text;

#[derive(Template)]
#[template(path = "subscriptions.html")]
struct Page {
    frame: Frame,
    is_known: bool,
    rows: Vec<SubscriptionRow>,
    tried: String,
    answer: Option<Answer>,
}

struct SubscriptionRow {
    queue: String,
    href: String,
    pattern: String,
    app: String,
    since: String,
    queue_exists: bool,
}

/// What would become of a broadcast event.
struct Answer {
    owners: String,
    publishers: String,
    recipients: Vec<RecipientRow>,
}

struct RecipientRow {
    queue: String,
    exists: bool,
    because: String,
}

impl Answer {
    fn of(parties: &EventParties) -> Self {
        let recipients = parties.recipients.iter().map(|one| {
            let matching = one.subscriptions.iter();
            let because: Vec<String> = matching
                .map(|found| format!("{} of {}", found.pattern, found.app))
                .collect();
            RecipientRow {
                queue: one.queue.to_string(),
                exists: one.exists,
                because: because.join(", "),
            }
        });

        Self {
            owners: parties.owners.join(", "),
            publishers: parties.publishers.join(", "),
            recipients: recipients.collect(),
        }
    }
}

/// The type that is tried.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TryQuery {
    #[serde(rename = "type")]
    event_type: String,
}

pub(crate) async fn show(
    State(board): State<Board>,
    frame: Frame,
    Query(query): Query<TryQuery>,
) -> Result<Response, Failure> {
    let reading = board.subscriptions.look().await;
    let tried = query.event_type.trim().to_owned();
    // Asked at once: what is tried is a question of this viewer only.
    let answer = match tried.as_str() {
        "" => None,
        event_type => {
            let subscriptions = board.ezq.subscriptions()?;
            let parties = board.ask(subscriptions.parties(event_type)).await?;
            Some(Answer::of(&parties))
        }
    };

    let frame = frame
        .page("/subscriptions", "Subscriptions")
        .figures(&reading);
    let all = reading.value.as_deref().map_or(&[][..], Vec::as_slice);
    let rows = all.iter().map(|one| SubscriptionRow {
        queue: one.queue.to_string(),
        href: frame.to(&format!("/queues/{}", text::encoded(one.queue.as_str()))),
        pattern: one.pattern.to_string(),
        app: one.app.clone(),
        since: text::time(one.since),
        queue_exists: one.queue_exists,
    });

    Ok(render(&Page {
        is_known: reading.value.is_some(),
        rows: rows.collect(),
        tried,
        answer,
        frame,
    }))
}
