//! `ezq queue`: what queues hold, and what an operator does to them.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::Utc;
use clap::Subcommand;
use ezq::admin::{AuditAction, AuditEntry, recorded};
use ezq::engine::Engine as _;
use ezq::message::IntoQueueName as _;
use serde_json::json;

use crate::confirmation::confirm;
use crate::emptying::{self, Drain};
use crate::failure::Failure;
use crate::names;
use crate::partitioning::{self, Wanted};
use crate::queue_rows::QueueRow;
use crate::rates;
use crate::session::{Access, Session, user};
use crate::signed::{Signed, signed};
use crate::text;
use crate::values;

#[derive(Debug, Subcommand)]
pub(crate) enum QueueVerb {
    /// List all queues with what they hold. Counts stop at 10,000
    List {
        /// Show also how fast they move, by a second look after this time, such as `5s`
        #[arg(long, value_name = "DURATION", value_parser = values::duration)]
        rates: Option<Duration>,
    },

    /// Show what one queue holds, and its pauses
    Show {
        /// Its name
        queue: String,
    },

    /// Create a queue, and PGMQ where it is missing
    Create {
        /// Its name
        queue: String,
        #[command(flatten)]
        signed: Signed,
    },

    /// Pause a queue, or one handler of it, in every process
    Pause {
        /// Its name
        queue: String,
        /// Pause only this handler
        #[arg(long, value_name = "NAME")]
        handler: Option<String>,
        #[command(flatten)]
        signed: Signed,
    },

    /// End a pause. Paused handlers of a resumed queue stay paused
    Resume {
        /// Its name
        queue: String,
        /// Resume only this handler
        #[arg(long, value_name = "NAME")]
        handler: Option<String>,
        /// Who resumes it [default: user@host of this machine]
        #[arg(long, value_name = "WHO")]
        by: Option<String>,
    },

    /// Wait until a queue is empty: nothing is ready, being handled or waits for another attempt
    Drain(Drain),

    /// Drop a queue with its dead letters and its archive, and what ezq keeps of it
    Drop {
        /// Its name
        queue: String,
        /// Also if it holds events, dead letters or archived events, or a consumer of it runs
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        signed: Signed,
    },

    /// Spread a queue over another number of partitions; 1 makes it one table again. The queue stands still
    /// while its events are moved
    Partition {
        /// Its name
        queue: String,
        /// How many partitions, 1 to 16
        partitions: u32,
        /// Move at most so many events
        #[arg(long, value_name = "EVENTS", default_value_t = 50_000)]
        at_most: u64,
        /// Give up after this time if transactions use the queue
        #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = "30s")]
        timeout: Duration,
        #[command(flatten)]
        signed: Signed,
    },

    /// Delete every event of a queue, also those being handled. Dead letters stay
    Purge {
        /// Its name
        queue: String,
        #[command(flatten)]
        signed: Signed,
    },
}

pub(crate) async fn run(session: &Session, verb: QueueVerb) -> Result<(), Failure> {
    match verb {
        QueueVerb::List { rates } => list(session, rates).await,
        QueueVerb::Show { queue } => show(session, &queue).await,
        QueueVerb::Create { queue, signed } => create(session, &queue, &signed).await,
        QueueVerb::Pause {
            queue,
            handler,
            signed,
        } => pause(session, &queue, handler.as_deref(), signed).await,
        QueueVerb::Resume { queue, handler, by } => {
            resume(session, &queue, handler.as_deref(), by).await
        }
        QueueVerb::Drain(drain) => emptying::drain(session, drain).await,
        QueueVerb::Drop {
            queue,
            force,
            signed,
        } => emptying::drop_queue(session, &queue, force, &signed).await,
        QueueVerb::Partition {
            queue,
            partitions,
            at_most,
            timeout,
            signed,
        } => {
            let wanted = Wanted {
                partitions,
                at_most,
                timeout,
            };
            partitioning::partition(session, &queue, &wanted, &signed).await
        }
        QueueVerb::Purge { queue, signed } => purge(session, &queue, &signed).await,
    }
}

async fn list(session: &Session, rates: Option<Duration>) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    if let Some(over) = rates {
        return rates::list(ezq, over, session.output).await;
    }
    let found = ezq.queues().list().await?;
    // Before anything is printed: a pager that stands still must not hold connections.
    ezq.close().await;

    let rows = QueueRow::all(&found);
    let hint = "no queues: `ezq queue create NAME` creates one";
    session.output.list(&rows, hint)
}

async fn show(session: &Session, queue: &str) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let queue = names::queue(&ezq, queue).await?;
    let found = ezq.queues().get(&queue).await?;
    ezq.close().await;

    let row = QueueRow::of(&found);
    let mut fields = vec![
        ("queue", row.queue.to_owned()),
        ("ready", found.ready.to_string()),
        ("leased", found.leased.to_string()),
        ("retrying", found.retrying.to_string()),
        ("scheduled", found.scheduled.to_string()),
        ("dead", found.dead.to_string()),
        ("oldest", row.oldest()),
    ];
    if found.partitions > 1 {
        fields.push(("partitions", found.partitions.to_string()));
    }
    fields.extend(row.pauses.iter().map(|pause| ("paused", pause.to_string())));
    session.output.show(&row, &fields)
}

async fn create(session: &Session, queue: &str, signed: &Signed) -> Result<(), Failure> {
    let queue = queue.into_queue_name()?;
    let ezq = session.connect(Access::Create).await?;
    // Asked first: the library does not say whether it created a queue.
    let exists = ezq.queues().names().await?.contains(&queue);
    let is_created = !exists && !session.global.dry_run;
    if is_created {
        let signature = signed.signature(&ezq.config().app);
        let action = AuditAction::CreateQueue;
        let entry = AuditEntry::new(Utc::now(), signature, action, queue.clone());
        let engine = ezq.pgmq();
        recorded(engine, entry, engine.ensure_queue(&queue), |()| None).await?;
    }
    ezq.close().await;

    let text = match (exists, is_created) {
        (true, _) => format!("the queue `{queue}` exists already"),
        (false, true) => format!("created the queue `{queue}`"),
        (false, false) => format!("would create the queue `{queue}`"),
    };
    let answer =
        json!({"queue": queue.as_str(), "created": is_created, "dry_run": session.global.dry_run});
    session.output.done(&answer, text)
}

async fn pause(
    session: &Session,
    queue: &str,
    handler: Option<&str>,
    signed: Signed,
) -> Result<(), Failure> {
    let ezq = session.connect(Access::Change).await?;
    let queue = names::queue(&ezq, queue).await?;
    let what = target(queue.as_str(), handler);

    let request = match handler {
        None => ezq.queues().pause(&queue),
        Some(handler) => ezq.queues().pause_handler(&queue, handler),
    };
    let request = signed!(request, signed);
    // A queue that is paused stays so, which a dry run can tell by looking.
    let is_changed = match session.global.dry_run {
        true => !is_paused(&ezq, &queue, handler).await?,
        false => request.await?,
    };
    if let Some(handler) = handler
        && let Some(text) = unknown(&ezq, &queue, handler).await
    {
        session.output.note(text);
    }
    ezq.close().await;

    let text = match (is_changed, session.global.dry_run) {
        (true, false) => format!("paused {what}"),
        (true, true) => format!("would pause {what}"),
        (false, _) => format!("{what} is paused already"),
    };
    changed(session, queue.as_str(), handler, is_changed, text)
}

/// What to say of a handler that no running consumer of the queue has. Its pause is stored all the same: a
/// consumer that has it may start later.
async fn unknown(ezq: &ezq::Ezq, queue: &ezq::QueueName, handler: &str) -> Option<String> {
    // Without the consumers nobody knows.
    let consumers = ezq.consumers().list().await.ok()?;
    let own = consumers.iter().filter(|one| !one.is_gone);
    let own = own.filter(|one| one.consumer.queue == *queue);
    let known: BTreeSet<&str> = own
        .flat_map(|one| one.consumer.handlers.iter())
        .map(|name| name.as_str())
        .collect();
    let is_unknown = !known.is_empty() && !known.contains(handler);
    is_unknown.then(|| names::missing("handler", handler, known, "no running consumer has the"))
}

async fn resume(
    session: &Session,
    queue: &str,
    handler: Option<&str>,
    by: Option<String>,
) -> Result<(), Failure> {
    let ezq = session.connect(Access::Change).await?;
    let name = queue.into_queue_name()?;
    let what = target(name.as_str(), handler);

    let mut request = match handler {
        None => ezq.queues().resume(&name),
        Some(handler) => ezq.queues().resume_handler(&name, handler),
    };
    if let Some(who) = by.or_else(user) {
        request = request.by(who);
    }
    let is_changed = match session.global.dry_run {
        true => is_paused(&ezq, &name, handler).await?,
        false => request.await?,
    };
    // A queue that was dropped while it was paused can be resumed, so this is asked last.
    if !is_changed {
        names::queue(&ezq, &name).await?;
    }
    ezq.close().await;

    let text = match (is_changed, session.global.dry_run) {
        (true, false) => format!("resumed {what}"),
        (true, true) => format!("would resume {what}"),
        (false, _) => format!("{what} is not paused"),
    };
    changed(session, name.as_str(), handler, is_changed, text)
}

async fn is_paused(
    ezq: &ezq::Ezq,
    queue: &ezq::QueueName,
    handler: Option<&str>,
) -> Result<bool, Failure> {
    let pauses = ezq.queues().pauses().await?;
    Ok(pauses.iter().any(|pause| {
        let paused = pause.target.handler.as_ref();
        pause.target.queue == *queue && paused.map(|name| name.as_str()) == handler
    }))
}

fn changed(
    session: &Session,
    queue: &str,
    handler: Option<&str>,
    is_changed: bool,
    text: String,
) -> Result<(), Failure> {
    let dry_run = session.global.dry_run;
    let answer = json!({
        "queue": queue, "handler": handler, "changed": is_changed && !dry_run, "dry_run": dry_run,
    });
    session.output.done(&answer, text)
}

fn target(queue: &str, handler: Option<&str>) -> String {
    match handler {
        None => format!("the queue `{queue}`"),
        Some(handler) => format!("the handler `{handler}` of the queue `{queue}`"),
    }
}

async fn purge(session: &Session, queue: &str, signed: &Signed) -> Result<(), Failure> {
    let dry_run = session.global.dry_run;
    let ezq = session.connect(Access::Change).await?;
    let queue = names::queue(&ezq, queue).await?;
    // Counted exactly, by reading the whole queue: who confirms should know how much goes.
    let found = ezq.stats(&queue).await?;
    let later = found.in_progress.saturating_add(found.scheduled);
    let total = found.ready.saturating_add(later);

    let purged = match dry_run {
        true => total,
        false => {
            let events = text::counted(total, "event");
            let what = format!("this deletes {events} of the queue `{queue}`");
            confirm(session, &what, queue.as_str())?;
            signed!(ezq.purge(&queue), signed).await?
        }
    };
    ezq.close().await;

    let verb = if dry_run { "would delete" } else { "deleted" };
    let events = text::counted(purged, "event");
    let answer = json!({"queue": queue.as_str(), "purged": purged, "dry_run": dry_run});
    session
        .output
        .done(&answer, format!("{verb} {events} of the queue `{queue}`"))
}
