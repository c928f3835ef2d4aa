//! The script with which an administrator prepares a database.

use std::fmt::Write as _;

use ezq_core::message::QueueName;

use crate::schema::{self, Part, archive_index};
use crate::sql::{self, archive, quoted};

/// The statements with which an administrator prepares a database for applications that run with
/// `manage_schema(false)` or as a role without rights on the schema. They create PGMQ, queues with
/// their dead letters and archives, and ezq's own tables, and grant the rights that `role` needs.
/// The session that runs them keeps `pg_catalog` as its search path.
///
/// The indexes by which an archive is searched for an event are created where the archive is small.
/// In a large one this would block acknowledgements: a comment holds the statement for it.
///
/// ```
/// use ezq_core::message::QueueName;
///
/// let sql = ezq_pgmq::setup_sql(&[QueueName::new("orders")?], Some("app"));
/// assert!(sql.contains("select pgmq.create('orders_dlq');"));
/// # Ok::<(), ezq_core::Error>(())
/// ```
#[must_use]
pub fn setup_sql(queues: &[QueueName], role: Option<&str>) -> String {
    let mut text = format!("{}create extension if not exists pgmq;\n", sql::PIN);
    let names = queues
        .iter()
        .flat_map(|queue| [queue.to_string(), queue.dead_letters()]);
    let names: Vec<String> = names.collect();

    // `pgmq.create` does nothing where the queue exists.
    for name in &names {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "select pgmq.create('{name}');");
    }

    for queue in queues {
        text.push_str(&archive_index::script(queue));
    }

    for part in [
        Part::Engine,
        Part::Broadcast,
        Part::Schedules,
        Part::Replays,
        Part::Trail,
    ] {
        text.push_str(&schema::sql(part, role));
    }

    if let Some(role) = role {
        let role = quoted(role);
        let _ = writeln!(text, "grant usage on schema pgmq to {role};");
        for name in &names {
            let table = sql::in_pgmq(&format!("q_{name}"));
            let _ = writeln!(
                text,
                "grant select, insert, update, delete on {table} to {role};"
            );
        }

        for queue in queues {
            let archive = archive::table(queue);
            let _ = writeln!(text, "grant select, insert, delete on {archive} to {role};");
        }

        for queue in queues {
            // The ids of messages with dedupe keys are drawn before they are stored.
            let ids = sql::in_pgmq(&format!("q_{queue}_msg_id_seq"));
            let _ = writeln!(text, "grant usage on sequence {ids} to {role};");
        }
    }

    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_the_role() {
        let sql = setup_sql(&[], Some("a\"b"));
        assert!(sql.contains("to \"a\"\"b\";"), "{sql}");
    }
}
