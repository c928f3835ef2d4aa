//! The script with which an administrator prepares a database.

use std::fmt::Write as _;

use ezq_core::Result;
use ezq_core::message::{IntoQueueName, QueueName};

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
/// let sql = ezq_pgmq::setup_sql(["orders", "mail"], Some("app"))?;
/// assert!(sql.contains("select pgmq.create('orders_dlq');"));
/// # Ok::<(), ezq_core::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidQueueName`](ezq_core::ErrorKind::InvalidQueueName) for the first text that is no
/// queue name.
pub fn setup_sql(
    queues: impl IntoIterator<Item = impl IntoQueueName>,
    role: Option<&str>,
) -> Result<String> {
    let queues = queues
        .into_iter()
        .map(IntoQueueName::into_queue_name)
        .collect::<Result<Vec<_>>>()?;
    Ok(script(&queues, role))
}

fn script(queues: &[QueueName], role: Option<&str>) -> String {
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
        Part::Controls,
        Part::Cancellations,
        Part::Presence,
        Part::Operations,
        Part::Positions,
        Part::Holders,
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
        let sql = script(&[], Some("a\"b"));
        assert!(sql.contains("to \"a\"\"b\";"), "{sql}");
    }

    #[test]
    fn names_the_text_that_is_no_queue_name() {
        let error = setup_sql(["orders", "no such"], None).unwrap_err();
        assert_eq!(error.kind(), ezq_core::ErrorKind::InvalidQueueName);
        assert!(error.to_string().contains("no such"), "{error}");
    }
}
