//! The template of test databases: an empty database with PGMQ, made once on each server.
//!
//! It gets its name only when it is complete, so what has the name can be cloned.

use ezq_core::{Error, Result};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use crate::config::{PgmqConfig, Place};
use crate::engine::PgmqEngine;
use crate::error;
use crate::sql::quoted;
use crate::testing::names::{PREFIX, hash};

/// The first version that can copy a database file by file, which is faster than through the log.
const COPIES_FILES: u32 = 150_000;

/// Makes sure of the template, and returns its name.
pub(super) async fn ensure(admin: &mut PgConnection, server: &PgConnectOptions) -> Result<String> {
    let place = Place::of(server);
    let refused = |failure: sqlx::Error| -> Error { error::of(failure, &place) };
    let name = name();
    if exists(admin, &name).await.map_err(refused)? {
        return Ok(name);
    }

    // Of several tests that begin at once, one makes it. The lock ends with the connection at the latest.
    let lock = hash(&name).cast_signed();
    sqlx::query("SELECT pg_catalog.pg_advisory_lock($1)")
        .bind(lock)
        .execute(&mut *admin)
        .await
        .map_err(refused)?;
    if !exists(admin, &name).await.map_err(refused)? {
        make(admin, server, &name).await?;
    }
    sqlx::query("SELECT pg_catalog.pg_advisory_unlock($1)")
        .bind(lock)
        .execute(&mut *admin)
        .await
        .map_err(refused)?;
    Ok(name)
}

/// The name of the template of this version. Another version may install PGMQ in another way.
fn name() -> String {
    let contents = concat!(
        env!("CARGO_PKG_VERSION"),
        " ",
        include_str!("../schema/install.rs"),
        include_str!("../../pgmq/pgmq.sql")
    );
    format!("{PREFIX}template_{:016x}", hash(contents))
}

async fn exists(admin: &mut PgConnection, name: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)")
        .bind(name)
        .fetch_one(admin)
        .await
}

async fn make(admin: &mut PgConnection, server: &PgConnectOptions, name: &str) -> Result<()> {
    let place = Place::of(server);
    let refused = |failure: sqlx::Error| -> Error { error::of(failure, &place) };
    let unfinished = format!("{name}_new");
    drop(admin, &unfinished).await.map_err(refused)?;
    let create = format!("CREATE DATABASE {} TEMPLATE template0", quoted(&unfinished));
    execute(admin, create).await.map_err(refused)?;

    let config = PgmqConfig::options(server.clone().database(&unfinished));
    let engine = PgmqEngine::connect(config).await?;
    ezq_core::engine::Engine::close(&engine).await;

    let rename = format!(
        "ALTER DATABASE {} RENAME TO {}",
        quoted(&unfinished),
        quoted(name)
    );
    execute(admin, rename).await.map_err(refused)
}

/// Makes a database from the template, in place of one of the same name.
pub(super) async fn clone(
    admin: &mut PgConnection,
    template: &str,
    name: &str,
) -> Result<(), sqlx::Error> {
    drop(admin, name).await?;
    let version: String = sqlx::query_scalar("SHOW server_version_num")
        .fetch_one(&mut *admin)
        .await?;
    let copies_files = version
        .parse::<u32>()
        .is_ok_and(|version| version >= COPIES_FILES);
    let strategy = if copies_files {
        " STRATEGY FILE_COPY"
    } else {
        ""
    };

    let create = format!(
        "CREATE DATABASE {} TEMPLATE {}{strategy}",
        quoted(name),
        quoted(template)
    );
    execute(admin, create).await
}

/// Drops a database if there is one, also under connections that are open.
pub(super) async fn drop(admin: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name));
    execute(admin, statement).await
}

/// Runs one statement that names a database.
async fn execute(admin: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(admin)
        .await?;
    Ok(())
}
