//! The presence of consumers, on the connection for rare calls.

use async_trait::async_trait;
use ezq_core::engine::{ConsumerPresence, Presence, SeenConsumer};
use ezq_core::{Error, Result};

use crate::admin::presence;
use crate::connection::dedicated::call;
use crate::engine::{PgmqEngine, call_part};
use crate::error::missing;
use crate::schema::{Part, out_of_reach};

impl PgmqEngine {
    fn presence_failed(&self, failure: sqlx::Error) -> Error {
        out_of_reach(failure, Part::Presence, self.place())
    }
}

#[async_trait]
impl Presence for PgmqEngine {
    async fn note(&self, running: &[ConsumerPresence]) -> Result<()> {
        let encoding = self.encoding();
        call_part!(self.inner, presence, |connection| presence::note(
            connection, running, encoding
        ))?
        .map_err(|failure| self.presence_failed(failure))
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let removed = call!(self.inner.connections.control, |connection| {
            presence::remove(connection, id)
        })?;
        match removed {
            // Without the table nobody was noted.
            Err(failure) if missing::of_ezq(&failure).is_some() => Ok(()),
            removed => removed.map_err(|failure| self.presence_failed(failure)),
        }
    }

    async fn consumers(&self) -> Result<Vec<SeenConsumer>> {
        if self.is_absent("consumers").await? {
            return Ok(Vec::new());
        }
        call_part!(self.inner, presence, |connection| presence::list(
            connection
        ))?
        .map_err(|failure| self.presence_failed(failure))
    }
}
