//! The server that is measured, with a database for each measurement.

use ezq::pgmq::embedded::EmbeddedPostgres;
use ezq::sqlx::{AssertSqlSafe, Connection as _, PgConnection, query, query_scalar};

use crate::error::Result;
use crate::library::Library;
use crate::process::Child;

pub(crate) struct Server {
    postgres: EmbeddedPostgres,
    admin: PgConnection,
    databases: u32,
}

/// A database with the tables of one library.
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) url: String,
}

impl Server {
    /// Starts a Postgres with default and durable settings.
    pub(crate) async fn start() -> Result<Self> {
        let postgres = EmbeddedPostgres::builder().durable(true).start().await?;
        let admin = PgConnection::connect(&postgres.url()).await?;
        Ok(Self {
            postgres,
            admin,
            databases: 0,
        })
    }

    pub(crate) async fn version(&mut self) -> Result<String> {
        let version = query_scalar("select current_setting('server_version')");
        Ok(version.fetch_one(&mut self.admin).await?)
    }

    /// A new database, into which the library installs itself.
    pub(crate) async fn database(&mut self, library: &Library) -> Result<Database> {
        self.databases += 1;
        let name = format!("bench_{}", self.databases);
        self.run(&format!("create database {name}")).await?;

        let database = Database {
            url: self.postgres.database_url(&name),
            name,
        };
        Child::start(library, "install", &database.url, 0)?
            .end()
            .await?;
        Ok(database)
    }

    /// Starts each measurement with the log written out.
    pub(crate) async fn checkpoint(&mut self) -> Result<()> {
        self.run("checkpoint").await
    }

    /// Gives the planner the statistics of a database's tables.
    pub(crate) async fn analyze(&mut self, database: &Database) -> Result<()> {
        let mut connection = PgConnection::connect(&database.url).await?;
        query("analyze").execute(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// Counts in a database.
    pub(crate) async fn count(&mut self, database: &Database, sql: &str) -> Result<u64> {
        let mut connection = PgConnection::connect(&database.url).await?;
        let count: i64 = query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        Ok(u64::try_from(count)?)
    }

    /// How many transactions were committed in a database. This connection is in another one, so it adds
    /// none.
    pub(crate) async fn commits(&mut self, database: &Database) -> Result<i64> {
        let sql = "select xact_commit + xact_rollback from pg_stat_database where datname = $1";
        Ok(query_scalar(sql)
            .bind(&database.name)
            .fetch_one(&mut self.admin)
            .await?)
    }

    /// Autovacuum's own transactions would count as those of an idle worker.
    pub(crate) async fn autovacuum(&mut self, on: bool) -> Result<()> {
        self.run(&format!("alter system set autovacuum = {on}"))
            .await?;
        self.run("select pg_reload_conf()").await
    }

    pub(crate) async fn drop(&mut self, database: Database) -> Result<()> {
        self.run(&format!("drop database {} with (force)", database.name))
            .await
    }

    async fn run(&mut self, sql: &str) -> Result<()> {
        query(AssertSqlSafe(sql.to_owned()))
            .execute(&mut self.admin)
            .await?;
        Ok(())
    }
}
