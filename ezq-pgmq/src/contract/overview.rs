//! The overview of queues, on the connection for rare calls.

use std::time::Duration;

use async_trait::async_trait;
use ezq_core::Result;
use ezq_core::engine::{QueueCounts, QueueOverview, Sampler};
use ezq_core::message::QueueName;

use super::seat::Seat;
use crate::admin::overview;
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

    async fn counts(&self, queues: &[QueueName], cap: u64) -> Result<Vec<Option<QueueCounts>>> {
        let control = &self.inner.connections.control;
        let existing = call!(control, |connection| overview::existing(connection, queues))?
            .map_err(|failure| error::of(failure, self.place()))?;

        // Others get the connection between two queues.
        let mut all = Vec::with_capacity(queues.len());
        for queue in queues {
            let Some(has_dead) = existing.get(queue.as_str()).copied() else {
                all.push(None);
                continue;
            };
            let counted = call!(control, |connection| overview::counts(
                connection, queue, has_dead, cap
            ))?;
            all.push(match counted {
                Ok(counts) => Some(counts),
                // It was dropped meanwhile.
                Err(failure) if missing::of_pgmq(&failure).is_some() => None,
                Err(failure) => return Err(self.failed(failure, queue)),
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
