//! The partitions of a queue: tables over which Postgres spreads its messages by a hash.
//!
//! To everybody who names it, a partitioned queue is one table, `pgmq.q_<queue>`. Postgres itself chooses the
//! partition of each row, whoever inserts it. So no publisher knows the number of partitions, and none can
//! have an outdated one. A row with an ordering key is placed by the hash of its key, so that all of a key
//! are in one partition; another one by the hash of its number. Numbers come from one sequence.
//!
//! # How a queue is partitioned anew
//!
//! One transaction locks the table, makes one of the new form under its name, moves all rows with their
//! numbers, and drops the old one. Others see the queue as it was before, or as it is after. A process that
//! dies in between has changed nothing.
//!
//! A row keeps all that it has: due time, read count, headers. If a delivery of it is not settled, its
//! headers get the oid of the table in which it was (`ezq-moved`), which the receipt names: the delivery is
//! settled as if nothing had happened.
//!
//! What the new table would lose is refused, and so is a table of another role: see `obstacles`.

use ezq_core::engine::Count;
use ezq_core::message::QueueName;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::schema::{key_index, obstacles};
use crate::sql::{self, in_pgmq, quoted};

/// Of the wait for vacuums and builds of indexes, behind which nobody else waits. It is longer than
/// `deadlock_timeout` (1 s by default): so long Postgres waits before it cancels an autovacuum.
const LIMITS_BESIDE: &str = "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = 0";
/// While this waits for the table's lock, users of the queue wait behind it. So it gives up soon, and is
/// tried again.
const LIMITS: &str = "SET LOCAL lock_timeout = '500ms'";

/// How many partitions of ezq's the queue `$1` has.
const COUNT: &str = "
    SELECT count(*) FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = to_regclass('pgmq.' || quote_ident('q_' || $1))
      AND starts_with(c.relname::text, 'q_' || $1 || '--')";

/// The table of the queue `$1`, and what the new one is to have as well.
const FOUND: &str = "
    SELECT pg_get_serial_sequence('pgmq.' || quote_ident('q_' || $1), 'msg_id') AS sequence,
           ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                   AND a.attgenerated = '' ORDER BY a.attnum) AS columns,
           ARRAY(SELECT pg_get_indexdef(i.indexrelid) FROM pg_catalog.pg_index i
                 WHERE i.indrelid = c.oid AND i.indisvalid AND NOT i.indisprimary ORDER BY 1) AS indexes,
           coalesce((SELECT array_to_string(p.reloptions, ', ') FROM pg_catalog.pg_class p
                     WHERE p.oid = c.oid OR p.oid IN (SELECT i.inhrelid FROM pg_catalog.pg_inherits i
                                                      WHERE i.inhparent = c.oid)
                     ORDER BY p.reloptions IS NULL LIMIT 1), '') AS options
    FROM pg_catalog.pg_class c WHERE c.oid = to_regclass('pgmq.' || quote_ident('q_' || $1))";

/// The rights that others have on a table or sequence.
const GRANTS: &str = "
    SELECT a.privilege_type::text,
           CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
           a.is_grantable
    FROM pg_catalog.pg_class c, LATERAL pg_catalog.aclexplode(c.relacl) a
    WHERE c.oid = to_regclass($1) AND a.grantee <> c.relowner";

/// What became of a queue that was to have another number of partitions.
pub(crate) enum Change {
    /// It has them, and so many messages were moved. It had the first number before.
    Done(u32, u64),
    /// It has that number already.
    None,
    /// It holds more messages than may be moved.
    TooMany,
    /// What it has would be lost, or another role owns it.
    Refused(String),
    NoQueue,
}

/// A right on a table: its name, who has it, and whether they may pass it on.
type Grant = (String, String, bool);

/// The table of a queue.
struct Found {
    sequence: Option<String>,
    columns: Vec<String>,
    indexes: Vec<String>,
    options: String,
}

/// How many partitions a queue has; 1 if it is not partitioned, or there is no such queue.
pub(crate) async fn count(
    connection: &mut PgConnection,
    queue: &QueueName,
) -> Result<u32, sqlx::Error> {
    let count: i64 = sqlx::query_scalar(COUNT)
        .bind(queue.as_str())
        .fetch_one(connection)
        .await?;
    Ok(u32::try_from(count).unwrap_or(0).max(1))
}

/// How many partitions a queue has, and how many messages it holds, counted up to `cap`; `None` if there
/// is no such queue.
pub(crate) async fn look(
    connection: &mut PgConnection,
    queue: &QueueName,
    cap: u64,
) -> Result<Option<(u32, Count)>, sqlx::Error> {
    if !stands(&mut *connection, queue).await? {
        return Ok(None);
    }
    let partitions = count(&mut *connection, queue).await?;
    let messages = count_messages(connection, queue, cap).await?;
    Ok(Some((partitions, messages)))
}

async fn stands(connection: &mut PgConnection, queue: &QueueName) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_catalog.to_regclass($1) IS NOT NULL")
        .bind(sql::table(queue))
        .fetch_one(connection)
        .await
}

async fn count_messages(
    connection: &mut PgConnection,
    queue: &QueueName,
    cap: u64,
) -> Result<Count, sqlx::Error> {
    let table = sql::table(queue);
    let limit = i64::try_from(cap.saturating_add(1)).unwrap_or(i64::MAX);
    let statement = format!("SELECT count(*) FROM (SELECT FROM {table} LIMIT $1) t");
    let counted: i64 = sqlx::query_scalar(AssertSqlSafe(statement))
        .bind(limit)
        .fetch_one(connection)
        .await?;
    Ok(Count::up_to(counted.unsigned_abs(), cap))
}

/// Gives a queue this number of partitions, in a transaction, unless it holds more messages than `at_most`.
///
/// Its limits of time hold for the rest of the transaction.
pub(crate) async fn change(
    tx: &mut PgConnection,
    queue: &QueueName,
    partitions: u32,
    at_most: u64,
) -> Result<Change, sqlx::Error> {
    sqlx::raw_sql(LIMITS_BESIDE).execute(&mut *tx).await?;
    if let Some(nothing_done) = needless(&mut *tx, queue, partitions).await? {
        return Ok(nothing_done);
    }

    // Two steps: the first waits for what may take long, and publishers and consumers pass it by.
    let table = sql::table(queue);
    let beside = format!("LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE");
    sqlx::query(AssertSqlSafe(beside)).execute(&mut *tx).await?;
    sqlx::raw_sql(LIMITS).execute(&mut *tx).await?;
    // Locked before it is looked at: what is published meanwhile must not be left behind. A statement that
    // waits for the lock looks the name up again, and finds the new table.
    let lock = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    sqlx::query(AssertSqlSafe(lock)).execute(&mut *tx).await?;
    change_locked(tx, queue, partitions, at_most).await
}

/// Gives partitions to a queue that this transaction has created. Nobody else sees it, so this waits for
/// nobody, and leaves the transaction's limits of time alone.
pub(crate) async fn divide_new(
    tx: &mut PgConnection,
    queue: &QueueName,
    partitions: u32,
) -> Result<Change, sqlx::Error> {
    change_locked(tx, queue, partitions, 0).await
}

async fn change_locked(
    tx: &mut PgConnection,
    queue: &QueueName,
    partitions: u32,
    at_most: u64,
) -> Result<Change, sqlx::Error> {
    // Before any row is read, as that may run code of the table's owner.
    if let Some(nothing_done) = needless(&mut *tx, queue, partitions).await? {
        return Ok(nothing_done);
    }
    if count_messages(&mut *tx, queue, at_most).await?.is_capped {
        return Ok(Change::TooMany);
    }

    let before = count(&mut *tx, queue).await?;
    let row = sqlx::query(FOUND)
        .bind(queue.as_str())
        .fetch_one(&mut *tx)
        .await?;
    let found = Found::read(&row)?;
    let moved = found.rebuild(tx, queue, partitions).await?;
    Ok(Change::Done(before, moved))
}

/// Why nothing is to be done, by what the catalog says.
async fn needless(
    tx: &mut PgConnection,
    queue: &QueueName,
    partitions: u32,
) -> Result<Option<Change>, sqlx::Error> {
    if !stands(&mut *tx, queue).await? {
        return Ok(Some(Change::NoQueue));
    }
    if count(&mut *tx, queue).await? == partitions {
        return Ok(Some(Change::None));
    }
    let obstacle = obstacles::first(tx, queue).await?;
    Ok(obstacle.map(Change::Refused))
}

impl Found {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            sequence: row.try_get("sequence")?,
            columns: row.try_get("columns")?,
            indexes: row.try_get("indexes")?,
            options: row.try_get("options")?,
        })
    }

    /// Makes the table anew, moves the rows, and drops the old table. Returns how many rows were moved.
    async fn rebuild(
        &self,
        tx: &mut PgConnection,
        queue: &QueueName,
        partitions: u32,
    ) -> Result<u64, sqlx::Error> {
        let table = sql::table(queue);
        let old = in_pgmq(&format!("q_{queue}--old"));
        let sequence = self.sequence.as_deref().unwrap_or_default();
        let grants = grants_on(tx, &table).await?;
        let sequence_grants = with_use(grants_on(tx, sequence).await?, &grants);

        run(
            tx,
            format!(
                "ALTER TABLE {table} RENAME TO {}",
                quoted(&format!("q_{queue}--old"))
            ),
        )
        .await?;
        let old_sequence = format!("q_{queue}--old-seq");
        run(
            tx,
            format!(
                "ALTER SEQUENCE {sequence} RENAME TO {}",
                quoted(&old_sequence)
            ),
        )
        .await?;
        // Renaming has locked it: a number that another session took before is seen, and none is taken since.
        let (last, is_called): (i64, bool) = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT last_value, is_called FROM {}",
            in_pgmq(&old_sequence)
        )))
        .fetch_one(&mut *tx)
        .await?;

        let tables = self.create(tx, queue, partitions, &old).await?;
        let sequence = in_pgmq(&format!("q_{queue}_msg_id_seq"));
        run(
            tx,
            format!("SELECT pg_catalog.setval('{sequence}', {last}, {is_called})"),
        )
        .await?;

        let moved = run(tx, self.move_rows(&table, &old)).await?;
        run(tx, format!("DROP TABLE {old}")).await?;
        // Once the old table has given their names back. Building them afterwards is faster, too.
        self.index(tx, queue, &tables).await?;
        grant(tx, &tables, &grants, (&sequence, &sequence_grants)).await?;
        Ok(moved)
    }

    /// Creates the table and its partitions; returns all of them, the whole table first.
    async fn create(
        &self,
        tx: &mut PgConnection,
        queue: &QueueName,
        partitions: u32,
        old: &str,
    ) -> Result<Vec<String>, sqlx::Error> {
        let table = sql::table(queue);
        let sequence = in_pgmq(&format!("q_{queue}_msg_id_seq"));
        let mut tables = vec![table.clone()];
        let options = match self.options.is_empty() {
            true => String::new(),
            false => format!(" WITH ({})", self.options),
        };
        // An identity column cannot be partitioned before PostgreSQL 17, a default can.
        let like = format!(
            "LIKE {old} INCLUDING ALL EXCLUDING IDENTITY EXCLUDING INDEXES EXCLUDING STATISTICS"
        );

        if partitions == 1 {
            run(tx, format!("CREATE TABLE {table} ({like}){options}")).await?;
            let identity = format!(
                "ALTER TABLE {table} ALTER COLUMN msg_id DROP DEFAULT,
                 ALTER COLUMN msg_id ADD GENERATED ALWAYS AS IDENTITY"
            );
            run(tx, identity).await?;
            return Ok(tables);
        }

        let create = format!(
            "CREATE TABLE {table} ({like}) PARTITION BY HASH
             ((coalesce(headers ->> 'x-pgmq-group'::text, msg_id::text)) COLLATE \"C\")"
        );
        run(tx, create).await?;
        run(
            tx,
            format!("CREATE SEQUENCE {sequence} OWNED BY {table}.msg_id"),
        )
        .await?;
        run(
            tx,
            format!(
                "ALTER TABLE {table} ALTER COLUMN msg_id SET DEFAULT pg_catalog.nextval('{sequence}')"
            ),
        )
        .await?;
        for index in 0..partitions {
            let partition = sql::partition(queue, partitions, index);
            let create = format!(
                "CREATE TABLE {partition} PARTITION OF {table}
                 FOR VALUES WITH (MODULUS {partitions}, REMAINDER {index}){options}"
            );
            run(tx, create).await?;
            tables.push(partition);
        }
        Ok(tables)
    }

    /// The statement that moves all rows, in the order of their numbers. See the module for `ezq-moved`.
    fn move_rows(&self, table: &str, old: &str) -> String {
        let columns: Vec<String> = self.columns.iter().map(|name| quoted(name)).collect();
        let object = sql::headers_object("o.headers");
        let returned = sql::returned("o.headers");
        let marked = format!(
            "CASE WHEN o.read_ct > 0 AND {returned} < o.read_ct
               THEN ({object}) || pg_catalog.jsonb_build_object('ezq-moved',
                 CASE pg_catalog.jsonb_typeof(o.headers -> 'ezq-moved'::text)
                   WHEN 'array' THEN o.headers -> 'ezq-moved'::text ELSE '[]'::jsonb END
                 || pg_catalog.to_jsonb(o.tableoid::bigint))
               ELSE o.headers END"
        );
        let values: Vec<String> = columns
            .iter()
            .map(|name| match name.as_str() {
                "\"headers\"" => marked.clone(),
                _ => format!("o.{name}"),
            })
            .collect();
        format!(
            "INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {old} o ORDER BY o.msg_id",
            columns.join(", "),
            values.join(", ")
        )
    }

    /// Creates the indexes that the old table had, and those over keys: claims of a partition rely on them.
    async fn index(
        &self,
        tx: &mut PgConnection,
        queue: &QueueName,
        tables: &[String],
    ) -> Result<(), sqlx::Error> {
        // Numbers are unique in each partition, and by their sequence in all.
        let stored = match tables.len() {
            1 => tables,
            _ => tables.get(1..).unwrap_or_default(),
        };
        for table in stored {
            run(tx, format!("ALTER TABLE {table} ADD PRIMARY KEY (msg_id)")).await?;
        }
        for index in &self.indexes {
            run(tx, index.replacen(" ON ONLY ", " ON ", 1)).await?;
        }
        if tables.len() > 1 {
            sqlx::raw_sql(AssertSqlSafe(key_index::script(queue)))
                .execute(&mut *tx)
                .await?;
        }
        Ok(())
    }
}

/// Gives others the rights that they had.
async fn grant(
    tx: &mut PgConnection,
    tables: &[String],
    grants: &[Grant],
    (sequence, sequence_grants): (&str, &[Grant]),
) -> Result<(), sqlx::Error> {
    for table in tables {
        for grant in grants {
            run(tx, statement(grant, table)).await?;
        }
    }
    for grant in sequence_grants {
        run(tx, statement(grant, &format!("SEQUENCE {sequence}"))).await?;
    }
    Ok(())
}

async fn grants_on(tx: &mut PgConnection, relation: &str) -> Result<Vec<Grant>, sqlx::Error> {
    sqlx::query_as(GRANTS).bind(relation).fetch_all(tx).await
}

/// The rights on the sequence. Whoever may insert uses it: an identity column asks for no right, a default
/// does.
fn with_use(mut sequence: Vec<Grant>, table: &[Grant]) -> Vec<Grant> {
    for (right, role, is_grantable) in table {
        if right == "INSERT" {
            sequence.push(("USAGE".to_owned(), role.clone(), *is_grantable));
        }
    }
    sequence
}

fn statement((right, role, is_grantable): &Grant, place: &str) -> String {
    let option = match is_grantable {
        true => " WITH GRANT OPTION",
        false => "",
    };
    format!("GRANT {right} ON {place} TO {role}{option}")
}

async fn run(tx: &mut PgConnection, statement: String) -> Result<u64, sqlx::Error> {
    // Not prepared: each is run once.
    let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(tx).await?;
    Ok(done.rows_affected())
}
