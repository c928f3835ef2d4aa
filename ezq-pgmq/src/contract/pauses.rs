//! The pauses, on the connection for rare calls.

use async_trait::async_trait;
use ezq_core::engine::{Pause, PauseTarget, Pauses, QueuePauses, TypeSearch};
use ezq_core::message::headers::HANDLER_PREFIX;
use ezq_core::message::{HandlerName, QueueName};
use ezq_core::{Error, ErrorKind, Result};
use tokio::sync::watch;

use crate::admin::pauses::{self, Row};
use crate::config::Place;
use crate::connection::dedicated::call;
use crate::engine::{PgmqEngine, call_part};
use crate::error::missing;
use crate::schema::{Part, out_of_reach};
use crate::wake;

impl PgmqEngine {
    fn pauses_failed(&self, failure: sqlx::Error) -> Error {
        let part = match missing::is_denied(&failure, "audit") {
            true => Part::Operations,
            false => Part::Controls,
        };
        out_of_reach(failure, part, self.place())
    }

    /// The name of a handler as it is stored; empty for a whole queue.
    fn stored_handler(&self, target: &PauseTarget) -> String {
        let handler = target.handler.as_ref().map_or("", HandlerName::as_str);
        self.encoding().name(handler).into_owned()
    }
}

#[async_trait]
impl Pauses for PgmqEngine {
    async fn pause(&self, target: &PauseTarget, by: &str, reason: Option<&str>) -> Result<bool> {
        let inner = &self.inner;
        let queue = &target.queue;
        // A pause of a queue that does not exist would surprise whoever creates it.
        let known = &inner.known.queues;
        known.forget(queue);
        known.shape(queue, &inner.connections.control).await?;

        let handler = self.stored_handler(target);
        let row = Row {
            queue,
            handler: &handler,
        };
        let by = &*self.encoding().name(by);
        let reason = reason.map(|reason| self.encoding().text(reason));
        let reason = reason.as_deref();
        let is_new = call_part!(inner, controls and operations, |connection| pauses::pause(
            connection, row, by, reason
        ))?
        .map_err(|failure| self.pauses_failed(failure))?;
        // This process need not wait for the notification.
        inner.wake.orders.changed();
        Ok(is_new)
    }

    async fn resume(&self, target: &PauseTarget, by: &str) -> Result<bool> {
        let by = &*self.encoding().name(by);
        let inner = &self.inner;
        let handler = self.stored_handler(target);
        let row = Row {
            queue: &target.queue,
            handler: &handler,
        };
        let was_paused = call_part!(inner, controls and operations, |connection| pauses::resume(
            connection, row, by
        ))?
        .map_err(|failure| self.pauses_failed(failure))?;
        inner.wake.orders.changed();
        Ok(was_paused)
    }

    async fn list(&self) -> Result<Vec<Pause>> {
        // Reading makes no table: without it nothing is paused.
        let listed = call!(self.inner.connections.control, |connection| {
            wake::pauses::list(connection)
        })?
        .map_err(|failure| self.pauses_failed(failure))?;
        listed.ok_or_else(|| {
            let Place { role, database, .. } = self.place();
            let text = format!(
                "the role `{role}` may not read the table `ezq.controls` of the database `{database}`, \
                 or that belongs to a role that is not trusted: `ezq_pgmq::setup_sql` prints the grants"
            );
            Error::new(ErrorKind::Permission, text)
        })
    }

    async fn watch(&self, queue: &QueueName) -> Result<watch::Receiver<QueuePauses>> {
        let inner = &self.inner;
        inner.start_hearing_orders();
        let control = &inner.connections.control;
        let watcher = inner.wake.orders.watch_pauses(queue, control).await?;

        if let Err(failure) = inner.listen().await {
            // The listener connects again, and a look every few seconds needs none.
            tracing::debug!(%failure, "changes of what is paused are heard late for now");
        }
        Ok(watcher)
    }

    async fn release_held(&self, queue: &QueueName, handler: &HandlerName) -> Result<u64> {
        let inner = &self.inner;
        let mark = format!("{HANDLER_PREFIX}{handler}");
        let mark = &*self.encoding().name(&mark);
        let mut released = 0;

        // Others get the connection between two steps.
        loop {
            let count = call!(
                inner.connections.control,
                |connection| pauses::release_held(connection, queue, mark)
            )?
            .map_err(|failure| self.failed(failure, queue))?;
            if count == 0 {
                break;
            }
            released += count;
            inner.announce(queue);
        }
        Ok(released)
    }

    async fn search(
        &self,
        queue: &QueueName,
        types: &[&str],
        so_far: TypeSearch,
    ) -> Result<TypeSearch> {
        call!(self.inner.connections.control, |connection| pauses::search(
            connection,
            queue,
            types,
            so_far.clone()
        ))?
        .map_err(|failure| self.failed(failure, queue))
    }
}
