//! What is done to one event: tried at once, moved, cancelled, discarded.

use axum::Form;
use axum::extract::{Path, State};
use axum::response::Response;
use ezq::QueueName;
use ezq::admin::{Cancel, CancelOutcome, EventRef};
use ezq::message::MessageId;
use serde::Deserialize;

use crate::board::Board;
use crate::failure::Failure;
use crate::frame::Prefix;
use crate::notes::Done;
use crate::rights::Operator;
use crate::screens::message::message_id;
use crate::screens::queues;
use crate::text;

/// An action on one event, as its page sends it.
#[derive(Debug, Deserialize)]
pub(crate) struct ActForm {
    /// The message, or the dead letter.
    id: String,
    /// The queue to move to.
    #[serde(default)]
    to: String,
    #[serde(default)]
    reason: String,
}

/// Who does it, and why.
struct Signed<'a> {
    by: &'a str,
    reason: &'a str,
}

/// Acts on a message of the queue.
pub(crate) async fn event(
    State(board): State<Board>,
    Operator { by }: Operator,
    prefix: Prefix,
    Path((name, event_id, action)): Path<(String, String, String)>,
    Form(form): Form<ActForm>,
) -> Result<Response, Failure> {
    let queue = queues::find(&board, &name).await?;
    let id = message_id(&form.id);
    let signed = Signed {
        by: &by,
        reason: form.reason.trim(),
    };
    let done = match action.as_str() {
        "retry" => retry(&board, &queue, &id, signed).await?,
        "move" => move_to(&board, &queue, EventRef::from(&id), (&form.to, signed)).await?,
        "discard" => discard(&board, &queue, &id, signed).await?,
        "cancel" => cancel(&board, &queue, &id, signed).await?,
        _ => return Err(Failure::missing("There is no such action.")),
    };
    board.change();

    let path = format!("/queues/{}", text::encoded(queue.as_str()));
    let path = match done {
        // Where it was there may be nothing any more.
        Done::DiscardedOne | Done::MovedOne | Done::Gone => format!("{path}/messages"),
        _ => format!("{path}/events/{}", text::encoded(&event_id)),
    };
    Ok(prefix.redirect(&done.at(&path, 1)))
}

/// Moves a dead letter.
pub(crate) async fn letter(
    State(board): State<Board>,
    Operator { by }: Operator,
    prefix: Prefix,
    Path((name, letter)): Path<(String, String)>,
    Form(form): Form<ActForm>,
) -> Result<Response, Failure> {
    let queue = queues::find(&board, &name).await?;
    let event = EventRef::Dead(message_id(&letter));
    let signed = Signed {
        by: &by,
        reason: form.reason.trim(),
    };
    let done = move_to(&board, &queue, event, (&form.to, signed)).await?;
    board.change();
    let path = format!("/queues/{}/dead", text::encoded(queue.as_str()));
    Ok(prefix.redirect(&done.at(&path, 1)))
}

async fn retry(
    board: &Board,
    queue: &QueueName,
    id: &MessageId,
    signed: Signed<'_>,
) -> Result<Done, Failure> {
    // Its attempts so far still count.
    let act = board.ezq.events(queue)?.retry_now(id);
    match board.ask(signed.put(act)).await? {
        true => Ok(Done::Retried),
        false => Ok(Done::NotRetried),
    }
}

async fn move_to(
    board: &Board,
    queue: &QueueName,
    event: EventRef,
    (to, signed): (&str, Signed<'_>),
) -> Result<Done, Failure> {
    if to.is_empty() {
        return Err(Failure::wrong("Choose the queue to which it moves."));
    }
    let to = queues::find(board, to).await?;
    let act = board.ezq.events(queue)?.move_to(event, &to);
    match board.ask(signed.put(act)).await? {
        true => Ok(Done::MovedOne),
        false => Ok(Done::Gone),
    }
}

async fn discard(
    board: &Board,
    queue: &QueueName,
    id: &MessageId,
    signed: Signed<'_>,
) -> Result<Done, Failure> {
    let act = board.ezq.events(queue)?.discard(id);
    match board.ask(signed.put(act)).await? {
        true => Ok(Done::DiscardedOne),
        false => Ok(Done::Gone),
    }
}

async fn cancel(
    board: &Board,
    queue: &QueueName,
    id: &MessageId,
    Signed { by, reason }: Signed<'_>,
) -> Result<Done, Failure> {
    let mut request = board.ezq.events(queue)?.cancel(id, Cancel::Dead).by(by);
    if !reason.is_empty() {
        request = request.reason(reason);
    }
    Ok(match board.ask(request).await? {
        CancelOutcome::Cancelled => Done::Cancelled,
        CancelOutcome::Asked => Done::AskedToCancel,
        CancelOutcome::AlreadyDead { .. } => Done::WasDead,
        // `NotFound`, and what a later version adds.
        _ => Done::Gone,
    })
}

impl Signed<'_> {
    fn put<'a>(&self, act: ezq::admin::EventAct<'a>) -> ezq::admin::EventAct<'a> {
        let act = act.by(self.by);
        match self.reason {
            "" => act,
            reason => act.reason(reason),
        }
    }
}
