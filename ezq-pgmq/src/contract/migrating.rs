//! The changes of ezq's own schema, as an administrator sees and applies them.

use ezq_core::Result;

use crate::connection::dedicated::call;
use crate::engine::PgmqEngine;
use crate::error;
use crate::schema::report::{self, MigrationStatus};
use crate::schema::{Part, Schema};

impl PgmqEngine {
    /// Every change of ezq's own schema that this ezq knows, in their order, and whether it is applied. What
    /// is not is applied when it is first needed. Those of a newer ezq come last.
    ///
    /// # Errors
    /// [`ErrorKind::Permission`](ezq_core::ErrorKind::Permission) if the role may not read
    /// `ezq.migrations`; otherwise when the database could not be asked.
    pub async fn migrations(&self) -> Result<Vec<MigrationStatus>> {
        call!(self.inner.connections.control, |connection| {
            report::migrations(connection)
        })?
        .map_err(|failure| error::of(failure, self.place()))
    }

    /// Applies every change of ezq's own schema, instead of each when it is first needed. The inbox is left
    /// out: it is in databases where handlers take effect, and is made there.
    ///
    /// # Errors
    /// [`ErrorKind::SchemaMissing`](ezq_core::ErrorKind::SchemaMissing) if something is missing and may not
    /// be created; the message says what to run. Otherwise when the database could not be asked.
    ///
    /// # Cancel safety
    /// What was applied stays applied.
    pub async fn migrate(&self) -> Result<()> {
        let inner = &self.inner;
        for part in Part::ALL.into_iter().filter(|part| *part != Part::Inbox) {
            let schema = Schema::new(part);
            let manage = inner.settings.manage_schema;
            let connections = &inner.connections;
            schema
                .ensure(&connections.control, &connections.connector, manage)
                .await?;
        }
        Ok(())
    }
}
