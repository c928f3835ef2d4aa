//! The overview of queues, on the connection for rare calls.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use ezq_core::engine::{QueueCounts, QueueOverview, Sampler};
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};

use super::seat::Seat;
use crate::admin::overview::{self, Existing};
use crate::connection::dedicated::call;
use crate::engine::PgmqEngine;
use crate::error::{self, missing};

#[async_trait]
impl QueueOverview for PgmqEngine {
    async fn queues(&self) -> Result<Vec<QueueName>> {
        call!(self.inner.connections.control, |connection| {
            overview::queues(connection)
        })?
        .map_err(|failure| error::of(failure, self.place()))
    }

    async fn counts(
        &self,
        queues: &[QueueName],
        cap: u64,
    ) -> Result<Vec<Result<Option<QueueCounts>>>> {
        let control = &self.inner.connections.control;
        let existing = call!(control, |connection| overview::existing(connection, queues))?
            .map_err(|failure| error::of(failure, self.place()))?;

        // Others get the connection between two queues.
        let mut all = Vec::with_capacity(queues.len());
        let mut locked: Option<HashSet<String>> = None;
        for queue in queues {
            let Some(Existing {
                has_dead,
                is_read_only,
            }) = existing.get(queue.as_str()).copied()
            else {
                all.push(Ok(None));
                continue;
            };
            if locked
                .as_ref()
                .is_some_and(|locked| is_among(locked, queue))
            {
                all.push(Err(held(queue)));
                continue;
            }

            let counted = call!(control, |connection| overview::counts(
                connection, queue, has_dead, cap
            ))?;
            all.push(match counted {
                Ok(mut counts) => {
                    counts.is_read_only = is_read_only;
                    Ok(Some(counts))
                }
                // It was dropped meanwhile.
                Err(failure) if missing::of_pgmq(&failure).is_some() => Ok(None),
                Err(failure) => {
                    // Each lock is waited for up to a second: the other locked ones are not tried.
                    if error::is_locked(&failure) && locked.is_none() {
                        locked = Some(self.locked_tables().await?);
                    }
                    Err(self.failed(failure, queue))
                }
            });
        }
        Ok(all)
    }

    async fn oldest_snapshot(&self) -> Result<Option<Duration>> {
        call!(self.inner.connections.control, |connection| {
            overview::oldest_snapshot(connection)
        })?
        .map_err(|failure| error::of(failure, self.place()))
    }

    async fn elect_sampler(&self) -> Result<Option<Box<dyn Sampler>>> {
        let seat = Seat::take(self, overview::take_seat()).await?;
        Ok(seat.map(|seat| Box::new(seat) as Box<dyn Sampler>))
    }
}

impl PgmqEngine {
    async fn locked_tables(&self) -> Result<HashSet<String>> {
        call!(self.inner.connections.control, |connection| {
            overview::locked(connection)
        })?
        .map_err(|failure| error::of(failure, self.place()))
    }
}

/// Whether the table of a queue, or that of its dead letters, is one of these.
fn is_among(tables: &HashSet<String>, queue: &QueueName) -> bool {
    let dead = format!("q_{}", queue.dead_letters());
    tables.contains(&format!("q_{queue}")) || tables.contains(&dead)
}

fn held(queue: &QueueName) -> Error {
    let text = format!("another session has locked the table of the queue `{queue}`");
    Error::new(ErrorKind::Transient, text)
}
