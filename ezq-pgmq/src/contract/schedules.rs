//! The store of schedules, on the connection for rare calls.

use async_trait::async_trait;
use ezq_core::engine::{Advance, Fired, Firing, KeptSchedules, Registration, ScheduleStore};
use ezq_core::{Error, Result};

use crate::admin::schedules;
use crate::connection::dedicated::call;
use crate::engine::{PgmqEngine, call_part};
use crate::error::{self, missing};
use crate::message::storable;
use crate::publish;
use crate::schema::{Part, out_of_reach};

impl PgmqEngine {
    fn schedules_failed(&self, failure: sqlx::Error) -> Error {
        out_of_reach(failure, Part::Schedules, self.place())
    }
}

#[async_trait]
impl ScheduleStore for PgmqEngine {
    async fn prepare(&self) -> Result<()> {
        let inner = &self.inner;
        inner
            .tables
            .schedules
            .ensure(
                &inner.connections.control,
                &inner.connections.connector,
                inner.settings.manage_schema,
            )
            .await
    }

    async fn look(&self, mine: &[(&str, &str)]) -> Result<KeptSchedules> {
        // With schedules of its own the caller will store them.
        if mine.is_empty() && self.is_absent("schedules").await? {
            let now = call!(self.inner.connections.control, |connection| {
                schedules::now(connection)
            })?
            .map_err(|failure| self.schedules_failed(failure))?;
            return Ok(KeptSchedules::new(now, Vec::new()));
        }

        let encoding = self.inner.settings.encoding;
        let written = |text| encoding.name(text).into_owned();
        let (names, definitions): (Vec<String>, Vec<String>) = mine
            .iter()
            .map(|(name, definition)| (written(name), written(definition)))
            .unzip();

        call_part!(self.inner, schedules, |connection| schedules::look(
            connection,
            &names,
            &definitions
        ))?
        .map_err(|failure| self.schedules_failed(failure))
    }

    async fn register(&self, new: Registration<'_>, instead_of: Option<&str>) -> Result<bool> {
        let encoding = self.inner.settings.encoding;
        let [name, application, definition] =
            [new.name, new.application, new.definition].map(|text| encoding.name(text));
        let next_at = new.next_at;
        let name = &*name;
        let application = &*application;
        let definition = &*definition;

        let new = Registration::new(name, application, definition, next_at);

        let instead_of = instead_of.map(|old| encoding.name(old));
        let instead_of = instead_of.as_deref();
        call_part!(self.inner, schedules, |connection| schedules::register(
            connection, new, instead_of
        ))?
        .map_err(|failure| self.schedules_failed(failure))
    }

    async fn store_event(&self, name: &str, definition: &str, event: Option<&str>) -> Result<()> {
        let encoding = self.inner.settings.encoding;
        let [name, definition] = [name, definition].map(|text| encoding.name(text));
        let name = &*name;
        let definition = &*definition;
        let event = event.map(|event| encoding.name(event));
        let event = event.as_deref();

        call_part!(self.inner, schedules, |connection| schedules::store_event(
            connection, name, definition, event
        ))?
        .map_err(|failure| self.schedules_failed(failure))
    }

    async fn stored_event(&self, name: &str) -> Result<Option<String>> {
        let name = &*self.inner.settings.encoding.name(name);
        call_part!(self.inner, schedules, |connection| schedules::stored_event(
            connection, name
        ))?
        .map_err(|failure| self.schedules_failed(failure))
    }

    async fn fire(&self, firing: Firing<'_>) -> Result<Fired> {
        let Firing {
            name,
            tick,
            message,
            ..
        } = firing;
        let encoding = self.inner.settings.encoding;
        let name = &*encoding.name(name);
        let definition = tick
            .map(|tick| encoding.name(tick.definition))
            .unwrap_or_default();
        let tick = tick.map(|tick| Advance::new(&definition, tick.from, tick.to).due(tick.due));

        // A tick without a message is left out.
        let Some(message) = message else {
            let Some(tick) = tick else {
                return Ok(Fired::NotDue);
            };

            let moved = call_part!(self.inner, schedules, |connection| schedules::leave_out(
                connection, name, tick
            ))?;
            let moved = moved.map_err(|failure| self.schedules_failed(failure))?;
            return Ok(if moved {
                Fired::Done(None)
            } else {
                Fired::NotDue
            });
        };

        let inner = &self.inner;
        let queue = &message.queue;
        let headers = publish::checked(&message, inner.settings.encoding)?;

        if message.headers.key().is_some() {
            inner
                .known
                .queues
                .index_keys(
                    queue,
                    &inner.connections.control,
                    inner.settings.manage_schema,
                )
                .await;
        }

        let stored = call_part!(self.inner, schedules, |connection| schedules::fire(
            connection,
            name,
            tick,
            &message,
            headers.as_deref()
        ))?;

        let stored = stored.map_err(|failure| match &failure {
            gone if missing::of_pgmq(gone).is_some() => self.failed(failure, queue),
            data if error::is_data(data) => storable::refused_with(failure, "its body or headers"),
            _ => error::of(failure, self.place()),
        })?;

        let Some(id) = stored else {
            return Ok(Fired::NotDue);
        };

        inner.announce(queue);
        Ok(Fired::Done(Some(id)))
    }

    async fn pause(&self, name: &str, pause: bool) -> Result<bool> {
        let name = &*self.inner.settings.encoding.name(name);
        call_part!(self.inner, schedules, |connection| schedules::pause(
            connection, name, pause
        ))?
        .map_err(|failure| self.schedules_failed(failure))
    }

    async fn remove(&self, name: &str) -> Result<bool> {
        let name = &*self.inner.settings.encoding.name(name);
        call_part!(self.inner, schedules, |connection| schedules::remove(
            connection, name
        ))?
        .map_err(|failure| self.schedules_failed(failure))
    }
}
