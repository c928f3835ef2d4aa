//! The broken engine's schedules.

use async_trait::async_trait;
use ezq_core::Result;
use ezq_core::engine::{Fired, Firing, KeptSchedules, Registration, ScheduleStore};

use crate::engine::{Broken, Fault};

#[async_trait]
impl ScheduleStore for Broken {
    async fn look(&self, mine: &[(&str, &str)]) -> Result<KeptSchedules> {
        self.inner.look(mine).await
    }

    async fn register(&self, new: Registration<'_>, instead_of: Option<&str>) -> Result<bool> {
        if self.is(Fault::ChangesWhatever) {
            let rows = self.inner.look(&[]).await?.rows;
            let old = rows.iter().find(|row| row.name == new.name);
            return self
                .inner
                .register(new, old.map(|row| &*row.definition))
                .await;
        }
        self.inner.register(new, instead_of).await
    }

    async fn store_event(&self, name: &str, definition: &str, event: Option<&str>) -> Result<()> {
        if self.is(Fault::StoresEventsWhatever) {
            let rows = self.inner.look(&[]).await?.rows;
            let found = rows.iter().find(|row| row.name == name);
            let definition = found.map_or(definition, |row| &*row.definition);
            return self.inner.store_event(name, definition, event).await;
        }
        self.inner.store_event(name, definition, event).await
    }

    async fn stored_event(&self, name: &str) -> Result<Option<String>> {
        self.inner.stored_event(name).await
    }

    async fn fire(&self, firing: Firing<'_>) -> Result<Fired> {
        let Firing {
            name,
            tick,
            message,
            ..
        } = firing.clone();
        let by_hand = firing.clone().tick(None);

        match tick {
            _ if self.is(Fault::FiresWhatever) => self.inner.fire(by_hand).await,
            _ if self.is(Fault::FiresNothing) => self.inner.fire(firing.message(None)).await,
            Some(_) if self.is(Fault::MovesOnBeforeFiring) => {
                let moved = self.inner.fire(Firing::new(name).tick(tick)).await?;
                match moved {
                    Fired::Done(_) if message.is_some() => self.inner.fire(by_hand).await,
                    other => Ok(other),
                }
            }
            _ => self.inner.fire(firing).await,
        }
    }

    async fn pause(&self, name: &str, pause: bool) -> Result<bool> {
        if self.is(Fault::PausesNothing) {
            return Ok(true);
        }
        self.inner.pause(name, pause).await
    }

    async fn remove(&self, name: &str) -> Result<bool> {
        if self.is(Fault::RemovesNoSchedule) {
            return Ok(true);
        }
        self.inner.remove(name).await
    }
}
