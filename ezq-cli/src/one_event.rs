//! `ezq event cancel`, `discard` and `retry`: what is done to one event.

use clap::Args;
use ezq::admin::CancelOutcome;
use ezq::engine::Cancel;
use ezq::message::MessageId;
use serde_json::json;

use crate::confirmation::confirm;
use crate::failure::Failure;
use crate::names;
use crate::session::{Access, Session, user};

/// One event, and who says so.
#[derive(Debug, Args)]
pub(crate) struct OneEvent {
    /// The queue
    queue: String,
    /// Its number, as `list` shows it
    id: i64,
    /// Who does it [default: the user of this machine]
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(crate) async fn cancel(
    session: &Session,
    event: OneEvent,
    what: Cancel,
) -> Result<(), Failure> {
    let ezq = session.connect(Access::Change).await?;
    let queue = names::queue(&ezq, &event.queue).await?;
    let id = event.id;
    let which = format!("the event {id} of the queue `{queue}`");
    let (would, done) = match what {
        Cancel::Discard => ("would discard", "discarded"),
        _ => ("would cancel", "cancelled"),
    };

    if session.global.dry_run {
        ezq.close().await;
        let answer = json!({"queue": queue.as_str(), "id": id.to_string(), "outcome": null, "dry_run": true});
        return session
            .output
            .done(&answer, format!("{would} {which}, if it is there"));
    }
    if what == Cancel::Discard {
        confirm(session, &format!("this deletes {which}"), queue.as_str())?;
    }

    let mut request = ezq.events(&queue)?.cancel(&MessageId::Number(id), what);
    if let Some(who) = event.by.or_else(user) {
        request = request.by(who);
    }
    if let Some(reason) = event.reason {
        request = request.reason(reason);
    }
    let outcome = request.await?;
    ezq.close().await;

    let (word, text) = match &outcome {
        CancelOutcome::Cancelled => (done, format!("{done} {which}")),
        CancelOutcome::Asked => (
            "asked",
            format!("{which} is being handled: its worker was asked, and does it in a moment"),
        ),
        CancelOutcome::AlreadyDead { letter } => (
            "already_dead",
            format!("{which} is the dead letter {letter} already"),
        ),
        _ => {
            return Err(Failure::not_found(format!(
                "there is no event {id} in the queue `{queue}`"
            )));
        }
    };
    let answer =
        json!({"queue": queue.as_str(), "id": id.to_string(), "outcome": word, "dry_run": false});
    session.output.done(&answer, text)
}

pub(crate) async fn retry(session: &Session, queue: &str, id: i64) -> Result<(), Failure> {
    let ezq = session.connect(Access::Change).await?;
    let queue = names::queue(&ezq, queue).await?;
    let dry_run = session.global.dry_run;
    let is_retried = match dry_run {
        true => false,
        false => {
            ezq.events(&queue)?
                .retry_now(&MessageId::Number(id))
                .await?
        }
    };
    ezq.close().await;

    let text = match (dry_run, is_retried) {
        (true, _) => {
            format!("would try the event {id} of the queue `{queue}` at once, if it is there")
        }
        (false, true) => format!("the event {id} of the queue `{queue}` is due now"),
        (false, false) => {
            let text = format!("there is no event {id} in the queue `{queue}`");
            return Err(Failure::not_found(text));
        }
    };
    let answer = json!({
        "queue": queue.as_str(), "id": id.to_string(), "changed": is_retried, "dry_run": dry_run,
    });
    session.output.done(&answer, text)
}
