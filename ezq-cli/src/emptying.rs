//! `ezq queue drain` and `ezq queue drop`: how a queue ends.

use std::time::{Duration, Instant};

use clap::Args;
use ezq::admin::{Count, QueueSummary};
use ezq::pgmq::{DropOutcome, DropQueue, QueueContents};
use ezq::{Ezq, QueueName};
use serde_json::json;

use crate::confirmation::confirm;
use crate::failure::Failure;
use crate::names;
use crate::session::{Access, Session, user};
use crate::signed::{Signed, signed};
use crate::text;
use crate::values;

/// How often the queue is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What is waited for.
#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Its name
    queue: String,
    /// Pause the queue first, and wait only until nothing is being handled. It stays paused
    #[arg(long)]
    pause: bool,
    /// Wait also for what is due later
    #[arg(long, conflicts_with = "pause")]
    scheduled: bool,
    /// Give up after this time, such as `10m`
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    timeout: Option<Duration>,
}

pub(crate) async fn drain(session: &Session, drain: Drain) -> Result<(), Failure> {
    let ezq = session.connect(Access::Change).await?;
    let queue = names::queue(&ezq, &drain.queue).await?;
    if session.global.dry_run {
        let left = drain.left(&ezq.queues().get(&queue).await?);
        ezq.close().await;
        let answer =
            json!({"queue": queue.as_str(), "is_drained": left.is_none(), "dry_run": true});
        let left = left.unwrap_or_else(|| "nothing".to_owned());
        return session.output.done(
            &answer,
            format!("would wait for the queue `{queue}`: {left}"),
        );
    }

    if drain.pause {
        let mut request = ezq.queues().pause(&queue).reason("it is drained");
        if let Some(who) = user() {
            request = request.by(who);
        }
        request.await?;
    } else if drain.left(&ezq.queues().get(&queue).await?).is_some()
        && let Some(why) = standstill(&ezq, &queue).await?
    {
        session
            .output
            .note(format!("{why}: it does not empty by itself"));
    }

    drain.wait(session, &ezq, &queue).await?;
    ezq.close().await;
    let what = match drain.pause {
        true => "is paused, and nothing of it is being handled",
        false => "is empty",
    };
    let answer = json!({"queue": queue.as_str(), "is_drained": true, "dry_run": false});
    session
        .output
        .done(&answer, format!("the queue `{queue}` {what}"))
}

impl Drain {
    /// Waits, and says what is left whenever that changes.
    async fn wait(&self, session: &Session, ezq: &Ezq, queue: &QueueName) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut told = String::new();
        loop {
            let Some(left) = self.left(&ezq.queues().get(queue).await?) else {
                return Ok(());
            };
            if left != told {
                session.output.note(format!("{left} left"));
                told = left;
            }
            if self.timeout.is_some_and(|limit| begun.elapsed() >= limit) {
                let text = format!("the queue `{queue}` is not drained: {told} left");
                return Err(Failure::error(text));
            }

            let pause = match self.timeout {
                Some(limit) => LOOK.min(limit.saturating_sub(begun.elapsed())),
                None => LOOK,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// What is left to wait for; `None` if there is nothing.
    fn left(&self, found: &QueueSummary) -> Option<String> {
        let counts = match self.pause {
            true => vec![("leased", found.leased)],
            false => {
                let mut counts = vec![
                    ("ready", found.ready),
                    ("leased", found.leased),
                    ("retrying", found.retrying),
                ];
                if self.scheduled {
                    counts.push(("scheduled", found.scheduled));
                }
                counts
            }
        };
        let left: Vec<String> = counts
            .into_iter()
            .filter(|(_, count)| !count.is_zero())
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        (!left.is_empty()).then(|| left.join(", "))
    }
}

/// Why a queue does not empty, as far as that can be told.
async fn standstill(ezq: &Ezq, queue: &QueueName) -> Result<Option<String>, Failure> {
    if ezq.queues().get(queue).await?.is_paused() {
        return Ok(Some(format!("the queue `{queue}` is paused")));
    }
    let is_consumed = is_consumed(ezq, queue).await?;
    let text = format!("nobody consumes the queue `{queue}`, as far as consumers tell");
    Ok((!is_consumed).then_some(text))
}

async fn is_consumed(ezq: &Ezq, queue: &QueueName) -> Result<bool, Failure> {
    let consumers = ezq.consumers().list().await?;
    Ok(consumers
        .iter()
        .any(|one| one.consumer.queue == *queue && !one.is_gone))
}

pub(crate) async fn drop_queue(
    session: &Session,
    queue: &str,
    force: bool,
    signed: &Signed,
) -> Result<(), Failure> {
    let dry_run = session.global.dry_run;
    let ezq = session.connect(Access::Change).await?;
    let queue = names::queue(&ezq, queue).await?;
    let held = ezq.pgmq().queue_contents(&queue).await?.unwrap_or_default();
    if !force {
        // The library asks again under a lock. Here nobody is asked to confirm what would be refused.
        if !held.is_empty() {
            return Err(holds(&queue, held));
        }
        if is_consumed(&ezq, &queue).await? {
            let text = format!(
                "a consumer of the queue `{queue}` runs, and may make it again: stop it, or use `--force`"
            );
            return Err(Failure::refused(text));
        }
    }

    if !dry_run {
        let what = format!("this drops the queue `{queue}`{}", with(held));
        confirm(session, &what, queue.as_str())?;
        let how = match force {
            true => DropQueue::WithEvents,
            false => DropQueue::IfEmpty,
        };
        let request = ezq.pgmq().drop_queue(&queue, how);
        match signed!(request, signed).await? {
            DropOutcome::HoldsEvents(held) => return Err(holds(&queue, held)),
            DropOutcome::Captured { table } => {
                let text = format!(
                    "changes of the table `{table}` are captured into the queue `{queue}`: remove the \
                     capture first"
                );
                return Err(Failure::refused(text));
            }
            // Somebody else was faster.
            _ => {}
        }
    }
    ezq.close().await;

    let verb = if dry_run { "would drop" } else { "dropped" };
    let answer = json!({
        "queue": queue.as_str(), "dropped": !dry_run, "events": held.events.value,
        "dead": held.dead.value, "archived": held.archived.value, "dry_run": dry_run,
    });
    session
        .output
        .done(&answer, format!("{verb} the queue `{queue}`{}", with(held)))
}

fn holds(queue: &QueueName, held: QueueContents) -> Failure {
    let text = format!(
        "the queue `{queue}` is not empty{}: `--force` drops that as well",
        with(held)
    );
    Failure::refused(text)
}

/// What a queue holds, for a sentence.
fn with(held: QueueContents) -> String {
    let counts: Vec<String> = [
        ("event", held.events),
        ("dead letter", held.dead),
        ("archived event", held.archived),
    ]
    .into_iter()
    .filter(|(_, count)| !count.is_zero())
    .map(|(noun, count)| counted(count, noun))
    .collect();
    match counts.is_empty() {
        true => String::new(),
        false => format!(", with {}", counts.join(", ")),
    }
}

fn counted(count: Count, noun: &str) -> String {
    match count.value {
        1 => text::counted(1_u64, noun),
        _ => format!("{count} {noun}s"),
    }
}
