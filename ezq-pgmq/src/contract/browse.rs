//! Browsing, on the connection for rare calls.

use async_trait::async_trait;
use ezq_core::Result;
use ezq_core::engine::{Browse, EventCopy, EventPage, Failures, PageRequest};
use ezq_core::message::QueueName;

use crate::admin::browse::{self, Place};
use crate::admin::{failures, follow, upkeep};
use crate::connection::dedicated::call;
use crate::engine::PgmqEngine;

#[async_trait]
impl Browse for PgmqEngine {
    async fn page(&self, request: &PageRequest) -> Result<EventPage> {
        let place = Place::of_request(request)?;
        let encoding = self.encoding();
        call!(self.inner.connections.control, |connection| browse::page(
            connection, request, place, encoding
        ))?
        .map_err(|failure| self.failed(failure, &request.queue))
    }

    async fn failures(&self, queue: &QueueName, scan: usize) -> Result<Failures> {
        call!(self.inner.connections.control, |connection| {
            failures::failures(connection, queue, scan)
        })?
        .map_err(|failure| self.failed(failure, queue))
    }

    async fn newest(&self, queue: &QueueName) -> Result<Option<i64>> {
        call!(self.inner.connections.control, |connection| upkeep::last(
            connection, queue
        ))?
        .map_err(|failure| self.failed(failure, queue))
    }

    async fn numbered_after(
        &self,
        queue: &QueueName,
        after: i64,
        except: &[i64],
        limit: usize,
    ) -> Result<Vec<EventCopy>> {
        call!(self.inner.connections.control, |connection| {
            follow::numbered_after(connection, queue, (after, except), limit)
        })?
        .map_err(|failure| self.failed(failure, queue))
    }
}
