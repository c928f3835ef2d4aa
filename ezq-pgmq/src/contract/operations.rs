//! Acting on stored events, on the connection for rare calls. Each call is one transaction.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use ezq_core::engine::{
    ActOutcome, AuditEntry, AuditPage, AuditRequest, EventAction, EventRef, Operation, Operations,
    Preview, Selection, Signature,
};
use ezq_core::message::{MessageId, QueueName};
use ezq_core::{Error, ErrorKind, Result};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::admin::{acting, audit, operations, selection as selected};
use crate::connection::dedicated::call;
use crate::engine::{PgmqEngine, call_part};
use crate::error::{self, missing};
use crate::message::encoding::Encoding;
use crate::schema::{Part, out_of_reach};
use crate::sql::BEGIN;

impl PgmqEngine {
    /// The error of a statement that touches queues and the tables of operations.
    pub(super) fn operations_failed(&self, failure: sqlx::Error, queue: &QueueName) -> Error {
        let is_own = ["operations", "audit"]
            .iter()
            .any(|table| missing::is_denied(&failure, table));
        match is_own {
            true => out_of_reach(failure, Part::Operations, self.place()),
            false => self.failed(failure, queue),
        }
    }

    /// Looks the queues of an action up: a mistyped name must create none.
    async fn check_queues(&self, queue: &QueueName, action: &EventAction) -> Result<()> {
        let inner = &self.inner;
        let known = &inner.known.queues;
        for name in std::iter::once(queue).chain(action.target()) {
            known.forget(name);
            known.shape(name, &inner.connections.control).await?;
        }
        if action.target() == Some(queue) {
            let text = format!("events of the queue `{queue}` cannot be moved to that same queue");
            return Err(Error::new(ErrorKind::Configuration, text));
        }
        Ok(())
    }

    /// Wakes whoever waits for what was made due: also what waits behind a removed message of a key, which
    /// may stand before the claim cursor.
    async fn acted(&self, queue: &QueueName, action: &EventAction) {
        self.inner.claims.cursors.forget(queue);
        self.announce(queue);
        if let Some(to) = action.target() {
            // Moved messages may have ordering keys.
            self.index_keys(to).await;
            self.announce(to);
        }
    }
}

#[async_trait]
impl Operations for PgmqEngine {
    async fn act(
        &self,
        queue: &QueueName,
        action: &EventAction,
        events: &[EventRef],
        signature: &Signature,
    ) -> Result<Vec<ActOutcome>> {
        events
            .iter()
            .try_for_each(|event| action.check_event(event))?;
        self.check_queues(queue, action).await?;

        let encoding = self.encoding();
        let act = audit::Act {
            action: action.into(),
            queue,
            target: action.target(),
            signature,
        };
        let outcomes = call_part!(self.inner, operations, |connection| act_and_record(
            connection, &act, action, events, encoding
        ))?
        .map_err(|failure| self.operations_failed(failure, queue))?;
        if outcomes.contains(&ActOutcome::Done) {
            self.acted(queue, action).await;
        }
        Ok(outcomes)
    }

    async fn preview(&self, selection: &Selection) -> Result<Preview> {
        let encoding = self.encoding();
        let counted = call!(self.inner.connections.control, |connection| {
            selected::preview(connection, selection, encoding)
        })?;
        counted.map_err(|failure| {
            let failed = self.failed(failure, &selection.queue);
            if !error::took_too_long(&failed) {
                return failed;
            }
            let text = "counting the events takes too long: narrow the filter, or start the operation, \
                        which goes without a total";
            Error::new(ErrorKind::Transient, text).with_source(failed)
        })
    }

    async fn start(
        &self,
        id: &str,
        action: &EventAction,
        selection: &Selection,
        signature: &Signature,
    ) -> Result<Operation> {
        action.check(selection.state)?;
        let queue = &selection.queue;
        self.check_queues(queue, action).await?;

        let encoding = self.encoding();
        let mut selection = selection.clone();
        let counted = call!(self.inner.connections.control, |connection| {
            selected::preview(connection, &selection, encoding)
        })?
        .map_err(|failure| self.failed(failure, queue));
        let total = match counted {
            Ok(preview) => {
                selection.last = preview.last;
                Some(preview.count)
            }
            // It is bounded all the same, and runs without a total.
            Err(failed) if error::took_too_long(&failed) => {
                if selection.last.is_none() {
                    let newest = call!(self.inner.connections.control, |connection| {
                        selected::newest(connection, &selection)
                    })?
                    .map_err(|failure| self.failed(failure, queue))?;
                    selection.last = newest.map(MessageId::Number);
                }
                None
            }
            Err(failed) => return Err(failed),
        };

        // The store sets the time when it begins.
        let began_at = DateTime::<Utc>::MIN_UTC;
        let mut operation =
            Operation::new(id, action.clone(), selection, signature.clone(), began_at);
        operation.total = total;
        call_part!(self.inner, operations, |connection| operations::start(
            connection, &operation, encoding
        ))?
        .map_err(|failure| self.operations_failed(failure, queue))
    }

    async fn step(&self, id: &str) -> Result<Operation> {
        let Some(before) = self.find_operation(id).await? else {
            return Err(Operation::missing(id));
        };
        let queue = &before.selection.queue;
        let encoding = self.encoding();
        let mut pace = operations::Pace::Whole;
        loop {
            // A step writes the audit trail, which may be that of an older ezq.
            let stepped = call_part!(self.inner, operations, |connection| {
                operations::step(connection, id, pace, encoding)
            })?;
            match stepped {
                Ok(None) => return Err(Operation::missing(id)),
                Ok(Some(operation)) => {
                    if operation.done > before.done {
                        self.acted(queue, &operation.action).await;
                    }
                    return Ok(operation);
                }
                Err(failure) => match pace.slower(&failure) {
                    Some(slower) => pace = slower,
                    None => return Err(self.operations_failed(failure, queue)),
                },
            }
        }
    }

    async fn stop(&self, id: &str, signature: &Signature) -> Result<Operation> {
        self.turn(id, signature, operations::Turn::Stop).await
    }

    async fn proceed(&self, id: &str, signature: &Signature) -> Result<Operation> {
        self.turn(id, signature, operations::Turn::Proceed).await
    }

    async fn list_operations(&self, limit: usize) -> Result<Vec<Operation>> {
        if self.is_absent("operations").await? {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        call!(self.inner.connections.control, |connection| {
            operations::list(connection, None, limit)
        })?
        .map_err(|failure| out_of_reach(failure, Part::Operations, self.place()))
    }

    async fn find_operation(&self, id: &str) -> Result<Option<Operation>> {
        if !self.encoding().may_hold(id) {
            return Ok(None);
        }
        let found = call!(self.inner.connections.control, |connection| {
            operations::list(connection, Some(id), 1)
        })?;
        match found {
            // Without the table there is none.
            Err(failure) if missing::of_ezq(&failure).is_some() => Ok(None),
            Err(failure) => Err(out_of_reach(failure, Part::Operations, self.place())),
            Ok(mut found) => Ok(found.pop()),
        }
    }

    async fn is_read_only(&self) -> Result<bool> {
        call!(self.inner.connections.control, |connection| {
            audit::is_read_only(connection)
        })?
        .map_err(|failure| error::of(failure, self.place()))
    }

    async fn record_act(&self, entry: &AuditEntry) -> Result<String> {
        let encoding = self.encoding();
        let written = call_part!(self.inner, operations, |connection| audit::write(
            connection, entry, encoding
        ))?;
        let number =
            written.map_err(|failure| out_of_reach(failure, Part::Operations, self.place()))?;
        Ok(number.to_string())
    }

    async fn record_count(&self, id: &str, count: u64) -> Result<()> {
        let Ok(number) = id.parse() else {
            return Ok(());
        };
        call!(self.inner.connections.control, |connection| audit::count(
            connection, number, count
        ))?
        .map_err(|failure| out_of_reach(failure, Part::Operations, self.place()))
    }

    async fn audit(&self, request: &AuditRequest) -> Result<AuditPage> {
        let before = audit::place(request)?;
        // Reading makes no table: without it nothing was done.
        if self.is_absent("audit").await? {
            return Ok(AuditPage::default());
        }
        let encoding = self.encoding();
        call!(self.inner.connections.control, |connection| audit::page(
            connection, request, before, encoding
        ))?
        .map_err(|failure| out_of_reach(failure, Part::Operations, self.place()))
    }
}

impl PgmqEngine {
    async fn turn(
        &self,
        id: &str,
        signature: &Signature,
        turn: operations::Turn,
    ) -> Result<Operation> {
        // A mistyped id makes no tables.
        if self.find_operation(id).await?.is_none() {
            return Err(Operation::missing(id));
        }
        let encoding = self.encoding();
        let turned = call_part!(self.inner, operations, |connection| {
            operations::turn(connection, id, signature, turn, encoding)
        })?;
        match turned {
            Err(failure) => Err(out_of_reach(failure, Part::Operations, self.place())),
            Ok(turned) => turned.ok_or_else(|| Operation::missing(id)),
        }
    }
}

/// Acts on events and records it, in one transaction.
async fn act_and_record(
    connection: &mut PgConnection,
    act: &audit::Act<'_>,
    action: &EventAction,
    events: &[EventRef],
    encoding: Encoding,
) -> Result<Vec<ActOutcome>, sqlx::Error> {
    let mut tx = connection.begin_with(BEGIN).await?;
    let acted = async {
        let outcomes = acting::run(&mut tx, act.queue, action, events).await?;
        let done = events.iter().zip(&outcomes);
        let done = done.filter(|(_, outcome)| **outcome == ActOutcome::Done);
        let done: Vec<&EventRef> = done.map(|(event, _)| event).collect();
        audit::of_events(&mut tx, act, &done, encoding).await?;
        Ok(outcomes)
    };
    let acted = acted.await;
    // A dropped transaction ends with the next use of the connection, and would lock rows until then.
    match acted {
        Ok(outcomes) => tx.commit().await.map(|()| outcomes),
        Err(failure) => {
            let _ = tx.rollback().await;
            Err(failure)
        }
    }
}
