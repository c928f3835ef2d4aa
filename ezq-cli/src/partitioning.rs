//! `ezq queue partition`: how many tables a queue is spread over.

use std::time::Duration;

use ezq::pgmq::PartitionOutcome;
use serde_json::json;

use crate::confirmation::confirm;
use crate::failure::Failure;
use crate::names;
use crate::session::{Access, Session};
use crate::signed::{Signed, signed};
use crate::text;

/// The number of partitions that is wanted, and what it may cost.
pub(crate) struct Wanted {
    pub(crate) partitions: u32,
    pub(crate) at_most: u64,
    pub(crate) timeout: Duration,
}

pub(crate) async fn partition(
    session: &Session,
    queue: &str,
    wanted: &Wanted,
    signed: &Signed,
) -> Result<(), Failure> {
    let dry_run = session.global.dry_run;
    let ezq = session.connect(Access::Change).await?;
    let queue = names::queue(&ezq, queue).await?;
    let after = wanted.partitions;
    let Some(found) = ezq.pgmq().partitions(&queue).await? else {
        // It was dropped since its name was looked up.
        return Err(Failure::error(format!(
            "the queue `{queue}` does not exist"
        )));
    };
    // The library counts again under a lock. Here nobody is asked to confirm what would be refused.
    let events = found.events;
    let is_changed = found.count != after;
    if is_changed && events.value > wanted.at_most {
        return Err(too_many(queue.as_str(), wanted.at_most));
    }

    let mut moved = events.value;
    if is_changed && !dry_run {
        let what = format!(
            "this moves {} of the queue `{queue}` from {} to {}: nothing of it is published or handled \
             meanwhile",
            text::counted(events.value, "event"),
            text::counted(found.count, "partition"),
            text::counted(after, "partition"),
        );
        confirm(session, &what, queue.as_str())?;
        let request = ezq.pgmq().partition_queue(&queue, after);
        let request = request.at_most(wanted.at_most).patience(wanted.timeout);
        match signed!(request, signed).await? {
            PartitionOutcome::Partitioned { moved: count, .. } => moved = count,
            PartitionOutcome::TooManyEvents => {
                return Err(too_many(queue.as_str(), wanted.at_most));
            }
            // Somebody else was faster.
            _ => {}
        }
    }
    ezq.close().await;

    let answer = json!({
        "queue": queue.as_str(), "partitions": after, "before": found.count,
        "changed": is_changed && !dry_run, "moved": if is_changed { moved } else { 0 },
        "dry_run": dry_run,
    });
    let partitions = text::counted(after, "partition");
    let text = match (is_changed, dry_run) {
        (false, _) => format!("the queue `{queue}` has {partitions} already"),
        (true, false) => format!(
            "the queue `{queue}` has {partitions}: {} moved",
            text::counted(moved, "event")
        ),
        (true, true) => format!(
            "would give the queue `{queue}` {partitions}, and move {}",
            text::counted(moved, "event")
        ),
    };
    session.output.done(&answer, text)
}

fn too_many(queue: &str, at_most: u64) -> Failure {
    let text = format!(
        "the queue `{queue}` holds more than {}, and would stand still while they are moved: let \
         consumers work it off first, or allow more with `--at-most`",
        text::counted(at_most, "event")
    );
    Failure::refused(text)
}
