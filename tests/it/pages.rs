//! The SQL that the pages under docs/ tell people to run, run.

use std::path::Path;

use ezq::QueueName;

use crate::database::{connection, run, scalar, server, unique};

const PAGES: [&str; 3] = [
    "docs/production.md",
    "docs/migrating/django-broadcaster.md",
    "docs/migrating/celery-events.md",
];

/// The blocks of a page that are SQL.
fn statements(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let (mut blocks, mut open) = (Vec::new(), None);
    for line in text.lines() {
        match (line.trim(), open.as_mut()) {
            ("```sql", None) => open = Some(String::new()),
            ("```", Some(_)) => blocks.extend(open.take()),
            (line, Some(block)) => {
                *block += line;
                *block += "\n";
            }
            _ => {}
        }
    }
    assert!(open.is_none(), "{page}");
    blocks
}

#[tokio::test]
async fn the_sql_of_the_pages_runs() {
    let (database, role) = (unique("pages"), unique("reader"));
    let mut admin = connection(&server().await.url()).await;
    run(&mut admin, &format!("CREATE DATABASE {database}")).await;
    let url = server().await.database_url(database.as_str());
    ezq::Ezq::builder().database_url(&url).without_discovered_handlers().connect().await.unwrap();
    let mut own = connection(&url).await;
    let setup = ezq::pgmq::setup_sql(&[QueueName::new("orders").unwrap()], None);
    // PGMQ stands, from SQL.
    run(&mut own, setup.split_once('\n').unwrap().1).await;
    run(
        &mut own,
        "INSERT INTO ezq.subscriptions (app, queue, pattern) VALUES ('mail', 'orders', 'order.*')",
    )
    .await;

    let mut count = 0;
    for sql in PAGES.into_iter().flat_map(statements) {
        // Roles belong to the whole server.
        let sql = sql.replace("app_reader", role.as_str());
        println!("{sql}");
        run(&mut own, &sql).await;
        count += 1;
    }
    assert_eq!(count, 12);
    // Both ways for a Python publisher stored an event that a Rust handler takes.
    let stored = "SELECT array_agg(message ->> 'type' || ' ' || (message #>> '{data,order}') ORDER BY msg_id)
                  FROM pgmq.q_orders";
    assert_eq!(
        scalar::<Vec<String>>(&mut own, stored).await,
        ["order.placed 7", "order.created 7"]
    );
    let options = scalar::<Vec<String>>(
        &mut own,
        "SELECT reloptions FROM pg_class WHERE oid = 'pgmq.q_orders'::regclass",
    );
    assert_eq!(options.await.len(), 3);
}
