//! The settings of a session of the role, where each comes from, and the SQL that changes it there.

use std::collections::HashMap;

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::sql::quoted;

/// Those that a check reads. `transaction_timeout` is of Postgres 17 and newer.
const NAMES: [&str; 14] = [
    "autovacuum",
    "default_transaction_read_only",
    "fsync",
    "full_page_writes",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "lock_timeout",
    "max_connections",
    "server_version",
    "statement_timeout",
    "superuser_reserved_connections",
    "synchronous_commit",
    "track_counts",
    "transaction_timeout",
];

/// The value of a setting, and where it was set, as `pg_settings` names it.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) value: String,
    source: String,
}

/// The settings that a new session of the role has.
#[derive(Debug, Default)]
pub(super) struct Settings(HashMap<String, Setting>);

impl Settings {
    /// Reads them. The session must not have changed any.
    pub(super) async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let statement = "SELECT name, setting, source FROM pg_catalog.pg_settings
                         WHERE name = ANY ($1::text[])";
        let query = sqlx::query(statement).bind(&NAMES[..]);
        let mut settings = HashMap::new();
        for row in query.fetch_all(connection).await? {
            let name: String = row.try_get("name")?;
            let setting = Setting {
                name: name.clone(),
                value: row.try_get("setting")?,
                source: row.try_get("source")?,
            };
            settings.insert(name, setting);
        }
        Ok(Self(settings))
    }

    pub(super) fn find(&self, name: &str) -> Option<&Setting> {
        self.0.get(name)
    }

    /// The value; an empty text for a setting that this server lacks.
    pub(super) fn value(&self, name: &str) -> &str {
        self.find(name).map_or("", |setting| &setting.value)
    }

    pub(super) fn number(&self, name: &str) -> i64 {
        self.value(name).parse().unwrap_or(0)
    }
}

impl Setting {
    /// Where it was set, in words.
    pub(super) fn origin(&self) -> &str {
        match self.source.as_str() {
            "user" => "set for the role",
            "database" => "set for the database",
            "database user" => "set for the role in the database",
            "client" => "set by the database URL",
            "command line" => "set on the command line of the server",
            "default" => "the default",
            _ => "set for the server",
        }
    }

    /// The SQL that sets it to another value in the same place, where SQL can do that.
    pub(super) fn change(&self, value: &str, login: &str, database: &str) -> Option<String> {
        let name = &self.name;
        let role = quoted(login);
        let database = quoted(database);
        match self.source.as_str() {
            "user" => Some(format!("alter role {role} set {name} = {value};")),
            "database user" => Some(format!(
                "alter role {role} in database {database} set {name} = {value};"
            )),
            "database" => Some(format!("alter database {database} set {name} = {value};")),
            "client" | "command line" | "environment variable" | "session" => None,
            _ => Some(format!(
                "alter system set {name} = {value};\nselect pg_catalog.pg_reload_conf();"
            )),
        }
    }
}
