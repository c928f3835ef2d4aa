//! The database that is measured, and what every result says about it.

use ezq::pgmq::embedded::EmbeddedPostgres;
use ezq::sqlx::{Connection, PgConnection, query, query_as, query_scalar};
use serde_json::{Map, Value, json};

use crate::error::Result;

/// A database. ezq's own development Postgres is durable here; the user's database is as it is.
#[derive(Debug)]
pub(crate) struct Database {
    url: String,
    /// Stops when it is dropped.
    _server: Option<EmbeddedPostgres>,
}

impl Database {
    pub(crate) async fn open(url: Option<&str>) -> Result<Self> {
        if let Some(url) = url {
            return Ok(Self {
                url: url.to_owned(),
                _server: None,
            });
        }
        // Without `fsync` a commit is free, and a figure says nothing about production.
        let server = EmbeddedPostgres::builder().durable(true).start().await?;
        Ok(Self {
            url: server.url(),
            _server: Some(server),
        })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.url).await?)
    }

    /// A session that holds a snapshot until it is closed: what is removed meanwhile stays in tables and
    /// indexes.
    pub(crate) async fn hold_snapshot(&self) -> Result<PgConnection> {
        let mut connection = self.connect().await?;
        // At this level the snapshot of the first statement is kept to the end.
        query("begin isolation level repeatable read")
            .execute(&mut connection)
            .await?;
        // `begin` takes no snapshot. The first statement does.
        query("select count(*) from pgmq.meta")
            .execute(&mut connection)
            .await?;
        Ok(connection)
    }

    /// The settings on which figures depend: versions, durability, processor.
    pub(crate) async fn settings(&self) -> Result<Map<String, Value>> {
        let mut connection = self.connect().await?;
        let (version, fsync, commit): (String, String, String) = query_as(
            "select current_setting('server_version'), current_setting('fsync'),
                    current_setting('synchronous_commit')",
        )
        .fetch_one(&mut connection)
        .await?;

        let pgmq: Option<String> =
            query_scalar("select extversion from pg_extension where extname = 'pgmq'")
                .fetch_optional(&mut connection)
                .await?;
        connection.close().await?;

        let settings = json!({
            "ezq": env!("CARGO_PKG_VERSION"),
            "postgres": version,
            "pgmq": pgmq.unwrap_or_else(|| "from SQL".to_owned()),
            "fsync": fsync,
            "synchronous_commit": commit,
            "cpu": cpu(),
            "cores": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        });
        Ok(settings.as_object().cloned().unwrap_or_default())
    }
}

/// The processor's name; its architecture where the system does not tell the name.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name"));
    let name = name.and_then(|line| line.split_once(": "));
    name.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, name)| name.trim().to_owned(),
    )
}
