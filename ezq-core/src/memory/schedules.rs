//! The schedules of the memory engine: each call is one step under the store's lock.

use async_trait::async_trait;

use super::clock;
use super::engine::MemoryEngine;
use super::store::Store;
use crate::engine::{
    Fired, Firing, KeptSchedules, Outgoing, PublishOutcome, Registration, ScheduleRow,
    ScheduleStore,
};
use crate::error::{Error, ErrorKind, Result};
use crate::message::message_id::MessageId;

#[async_trait]
impl ScheduleStore for MemoryEngine {
    async fn look(&self, mine: &[(&str, &str)]) -> Result<KeptSchedules> {
        let mut store = self.store();
        let now = self.now();

        for (name, definition) in mine {
            if let Some(row) = store
                .schedules
                .get_mut(*name)
                .filter(|r| r.definition == *definition)
            {
                row.seen_at = now;
            }
        }

        Ok(KeptSchedules {
            now,
            rows: store.schedules.values().cloned().collect(),
        })
    }

    async fn register(&self, new: Registration<'_>, instead_of: Option<&str>) -> Result<bool> {
        let mut store = self.store();
        let old = store.schedules.get(new.name);
        if old.map(|row| &*row.definition) != instead_of {
            return Ok(false);
        }

        let row = ScheduleRow {
            name: new.name.to_owned(),
            application: new.application.to_owned(),
            definition: new.definition.to_owned(),
            next_at: new.next_at,
            last_tick: old.and_then(|row| row.last_tick),
            fired_at: old.and_then(|row| row.fired_at),
            paused_at: old.and_then(|row| row.paused_at),
            resumed_at: old.and_then(|row| row.resumed_at),
            seen_at: self.now(),
            has_event: false,
        };
        store.schedule_events.remove(new.name);
        store.schedules.insert(row.name.clone(), row);
        Ok(true)
    }

    async fn store_event(&self, name: &str, definition: &str, event: Option<&str>) -> Result<()> {
        let mut store = self.store();
        let row = store.schedules.get_mut(name);
        let Some(row) = row.filter(|row| row.definition == definition) else {
            return Ok(());
        };

        row.has_event = event.is_some();
        match event {
            Some(event) => store
                .schedule_events
                .insert(name.to_owned(), event.to_owned()),
            None => store.schedule_events.remove(name),
        };
        Ok(())
    }

    async fn stored_event(&self, name: &str) -> Result<Option<String>> {
        Ok(self.store().schedule_events.get(name).cloned())
    }

    async fn fire(&self, firing: Firing<'_>) -> Result<Fired> {
        let mut store = self.store();
        let now = self.now();
        let micros = self.shared.clock.now();
        let Firing {
            name,
            tick,
            message,
        } = firing;

        let row = store.schedules.get(name).filter(|row| {
            tick.is_none_or(|tick| {
                row.paused_at.is_none()
                    && row.definition == tick.definition
                    && row.next_at == tick.from
                    && row.next_at <= now
            })
        });
        let Some(mut row) = row.cloned() else {
            return Ok(Fired::NotDue);
        };

        // The event first: if it cannot be stored, the schedule stays as it is.
        let fires = message.is_some();
        let id = message
            .map(|message| publish(&mut store, message, micros))
            .transpose()?;

        if let Some(tick) = tick {
            row.next_at = tick.to;
            row.seen_at = now;
            row.last_tick = if fires { Some(tick.due) } else { row.last_tick };
        }
        row.fired_at = if fires { Some(now) } else { row.fired_at };
        store.schedules.insert(name.to_owned(), row);
        Ok(Fired::Done(id))
    }

    async fn pause(&self, name: &str, pause: bool) -> Result<bool> {
        let mut store = self.store();
        let now = self.now();
        let Some(row) = store.schedules.get_mut(name) else {
            return Ok(false);
        };
        match (pause, row.paused_at) {
            (true, None) => row.paused_at = Some(now),
            (false, Some(_)) => {
                row.paused_at = None;
                row.resumed_at = Some(now);
            }
            _ => {}
        }
        Ok(true)
    }

    async fn remove(&self, name: &str) -> Result<bool> {
        let mut store = self.store();
        store.schedule_events.remove(name);
        Ok(store.schedules.remove(name).is_some())
    }
}

fn publish(store: &mut Store, message: Outgoing, now: clock::Micros) -> Result<MessageId> {
    match store.publish(message, now) {
        PublishOutcome::Stored(id) => Ok(id),
        PublishOutcome::Failed(error) => Err(error),
        PublishOutcome::Duplicate(_) => Err(Error::new(
            ErrorKind::Engine,
            "the event of a schedule cannot have a dedupe key",
        )),
    }
}
