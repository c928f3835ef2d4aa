//! The database of one test.

use std::fmt;

use ezq_core::Result;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::Mutex;

use crate::config::{PgmqConfig, Place};
use crate::error;
use crate::testing::names::{hash, name_of};
use crate::testing::template;

/// A database that one test has to itself.
pub struct Database {
    name: String,
    options: PgConnectOptions,
    place: Place,
    /// On the server's own database. It holds the lock on the name.
    admin: Mutex<PgConnection>,
}

impl Database {
    /// Makes the database of a test, by the test's full name. If an earlier run left one, it is replaced.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](ezq_core::ErrorKind::Configuration) if there is no server.
    /// [`ErrorKind::Permission`](ezq_core::ErrorKind::Permission) if the role may not create databases.
    /// Otherwise when the server could not be reached, or refused.
    pub async fn create(test: &str) -> Result<Self> {
        let server = PgmqConfig::from_env().await?.options;
        let place = Place::of(&server);
        let refused = |failure| error::of(failure, &place);

        let mut admin = PgConnection::connect_with(&server).await.map_err(refused)?;
        let template = template::ensure(&mut admin, &server).await?;

        let name = name_of(test);
        sqlx::query("SELECT pg_catalog.pg_advisory_lock($1)")
            .bind(hash(&name).cast_signed())
            .execute(&mut admin)
            .await
            .map_err(refused)?;
        template::clone(&mut admin, &template, &name)
            .await
            .map_err(refused)?;

        Ok(Self {
            options: server.database(&name),
            name,
            place,
            admin: Mutex::new(admin),
        })
    }

    /// How to connect to it.
    #[must_use]
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Whether it is on a server that the environment names. A development Postgres ends with this
    /// process.
    pub(super) fn is_named(&self) -> bool {
        ["EZQ_DATABASE_URL", "DATABASE_URL"]
            .iter()
            .any(|name| std::env::var(name).is_ok_and(|url| !url.is_empty()))
    }

    /// Its URL, without a password.
    #[must_use]
    pub fn url(&self) -> String {
        let user = self.options.get_username();
        let port = self.options.get_port();
        let name = &self.name;
        match self.options.get_socket() {
            Some(socket) => {
                let host = socket.display();
                format!("postgres://{user}@localhost:{port}/{name}?host={host}&sslmode=disable")
            }
            None => format!(
                "postgres://{user}@{}:{port}/{name}",
                self.options.get_host()
            ),
        }
    }

    /// Drops it, also under connections that are open.
    ///
    /// # Errors
    /// When the server could not be reached, or refused.
    pub async fn remove(&self) -> Result<()> {
        let mut admin = self.admin.lock().await;
        template::drop(&mut admin, &self.name)
            .await
            .map_err(|failure| error::of(failure, &self.place))
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.url()).finish()
    }
}
