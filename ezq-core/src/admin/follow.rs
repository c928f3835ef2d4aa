//! Following what is published to a queue, without leasing it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::engine::reader::Reader;
use crate::engine::{Browse, Engine, EventCopy};
use crate::error::Result;
use crate::message::queue_name::QueueName;

/// The longest time between two looks. Where the store tells of new messages, they are looked for at once.
const LOOK: Duration = Duration::from_millis(500);
/// How many messages one look returns at most.
const PAGE: usize = 100;
/// How many numbers behind the newest are looked at again: a transaction may commit after one that drew a
/// later number.
const AGAIN: i64 = 1000;

/// Follows the events that are published to a queue. Get it by
/// [`Events::follow`](crate::admin::Events::follow).
pub struct Follow<'a> {
    engine: &'a Arc<dyn Engine>,
    browse: &'a dyn Browse,
    queue: QueueName,
    reader: Reader,
    wakeups: Option<watch::Receiver<u64>>,
    newest: i64,
    /// Numbers that were told, of those that are looked at again.
    told: BTreeSet<i64>,
}

impl<'a> Follow<'a> {
    pub(super) async fn begin(
        (engine, browse): (&'a Arc<dyn Engine>, &'a dyn Browse),
        queue: QueueName,
        reader: Reader,
        last: usize,
    ) -> Result<Self> {
        let newest = browse.newest(&queue).await?.unwrap_or(0);
        let mut follow = Self {
            engine,
            browse,
            queue,
            reader,
            wakeups: None,
            newest,
            told: BTreeSet::new(),
        };
        follow.pass_over(last).await?;
        Ok(follow)
    }

    /// Passes over the messages that are stored already, but for the newest `last` of those that are looked
    /// at again.
    async fn pass_over(&mut self, last: usize) -> Result<()> {
        let mut stored = BTreeSet::new();
        loop {
            let except: Vec<i64> = stored.iter().copied().collect();
            let found = self.look(&except).await?;
            if found.is_empty() {
                break;
            }
            stored.extend(found.iter().filter_map(number));
        }
        let passed = stored.len().saturating_sub(last);
        self.told = stored.into_iter().take(passed).collect();
        Ok(())
    }

    /// Waits until there are events that were not told yet, and tells them in the order of their numbers:
    /// at most 100 at once. One that is redriven counts as new. One that is handled within half a second may
    /// never be seen.
    ///
    /// # Errors
    /// When the engine could not be asked. A later call goes on where this one began.
    ///
    /// # Cancel safety
    /// Nothing is lost: a later call tells the same events.
    pub async fn next(&mut self) -> Result<Vec<EventCopy>> {
        loop {
            let found = self.ready().await?;
            if !found.is_empty() {
                return Ok(found);
            }
            self.wait().await;
        }
    }

    /// The events that were not told yet, without waiting: at most 100 at once.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn ready(&mut self) -> Result<Vec<EventCopy>> {
        let told: Vec<i64> = self.told.iter().copied().collect();
        let mut found = self.look(&told).await?;
        for event in &mut found {
            event.reader = self.reader.clone();
        }

        self.told.extend(found.iter().filter_map(number));
        self.newest = self.newest.max(self.told.last().copied().unwrap_or(0));
        self.told = self.told.split_off(&self.behind().saturating_add(1));
        Ok(found)
    }

    async fn look(&self, except: &[i64]) -> Result<Vec<EventCopy>> {
        let after = self.behind();
        self.browse
            .numbered_after(&self.queue, after, except, PAGE)
            .await
    }

    /// The number behind which is looked.
    fn behind(&self) -> i64 {
        self.newest.saturating_sub(AGAIN).max(0)
    }

    async fn wait(&mut self) {
        if self.wakeups.is_none() {
            // Without wake-ups it is only later: the next look asks again.
            self.wakeups = self.engine.wakeups(&self.queue).await.ok().flatten();
        }
        let pause = tokio::time::sleep(LOOK);
        match &mut self.wakeups {
            None => pause.await,
            Some(wakeups) => tokio::select! {
                () = pause => {}
                changed = wakeups.changed() => if changed.is_err() {
                    // The engine is closed: the next look says so.
                    tokio::time::sleep(LOOK).await;
                },
            },
        }
    }
}

impl std::fmt::Debug for Follow<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follow")
            .field("queue", &self.queue)
            .field("newest", &self.newest)
            .finish_non_exhaustive()
    }
}

fn number(event: &EventCopy) -> Option<i64> {
    event.message_id.as_number()
}
