//! `ezq event cancel`, `discard`, `retry` and `move`: what is done to one event by its number. What is done to
//! many is in `bulk.rs`.

use clap::Args;
use ezq::admin::{CancelOutcome, EventAct, EventAction, EventRef};
use ezq::engine::Cancel;
use ezq::message::MessageId;
use ezq::{Ezq, QueueName};
use serde_json::json;

use crate::confirmation::confirm;
use crate::failure::Failure;
use crate::names;
use crate::session::{Access, Session};
use crate::signed::{Signed, signed};

/// One event, and who says so.
#[derive(Debug, Args)]
pub(crate) struct OneEvent {
    /// The queue
    pub(crate) queue: String,
    /// Its number, as `list` shows it
    pub(crate) id: i64,
    #[command(flatten)]
    pub(crate) signed: Signed,
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

    let request = ezq.events(&queue)?.cancel(&MessageId::Number(id), what);
    let request = signed!(request, event.signed);
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

/// One event, and what is done to it.
pub(crate) struct OneAct {
    pub(crate) queue: QueueName,
    pub(crate) event: EventRef,
    pub(crate) action: EventAction,
    pub(crate) signed: Signed,
}

impl OneAct {
    pub(crate) async fn run(self, session: &Session, ezq: Ezq) -> Result<(), Failure> {
        let dry_run = session.global.dry_run;
        let which = self.which();
        if self.action == EventAction::Discard && !dry_run {
            confirm(
                session,
                &format!("this deletes {which}"),
                self.queue.as_str(),
            )?;
        }

        // What does not fit is refused in a dry run as well.
        self.action.check_event(&self.event)?;
        let is_done = match dry_run {
            true => false,
            false => self.request(&ezq)?.await?,
        };
        ezq.close().await;
        if !dry_run && !is_done {
            return Err(self.missing());
        }

        let text = match dry_run {
            true => format!("would {}, if it is there", self.words(&which).0),
            false => self.words(&which).1,
        };
        let answer = json!({
            "queue": self.queue.as_str(), "id": self.event.id().to_string(), "changed": is_done,
            "target": self.action.target().map(QueueName::as_str), "dry_run": dry_run,
        });
        session.output.done(&answer, text)
    }

    fn request<'e>(&self, ezq: &'e Ezq) -> Result<EventAct<'e>, Failure> {
        let events = ezq.events(&self.queue)?;
        let event = self.event.clone();
        let request = match &self.action {
            EventAction::Redrive => events.redrive(event.id()),
            EventAction::RetryNow => events.retry_now(event.id()),
            EventAction::Move { to } => events.move_to(event, to),
            // What a later version of the library can do has no verb here.
            _ => events.discard(event),
        };
        Ok(signed!(request, self.signed))
    }

    fn missing(&self) -> Failure {
        let text = format!(
            "there is no {} {} in the queue `{}`",
            self.noun(),
            self.event.id(),
            self.queue
        );
        Failure::not_found(text)
    }

    fn which(&self) -> String {
        format!(
            "the {} {} of the queue `{}`",
            self.noun(),
            self.event.id(),
            self.queue
        )
    }

    fn noun(&self) -> &'static str {
        match &self.event {
            EventRef::Dead(_) => "dead letter",
            _ => "event",
        }
    }

    /// What would be done, and what was done.
    fn words(&self, which: &str) -> (String, String) {
        match &self.action {
            EventAction::Redrive => (format!("redrive {which}"), format!("redriven: {which}")),
            EventAction::RetryNow => (
                format!("try {which} at once"),
                format!("{which} is due now"),
            ),
            EventAction::Move { to } => (
                format!("move {which} to the queue `{to}`"),
                format!("moved {which} to the queue `{to}`"),
            ),
            _ => (format!("discard {which}"), format!("discarded {which}")),
        }
    }
}
