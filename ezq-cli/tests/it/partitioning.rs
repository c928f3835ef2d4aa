//! `ezq queue partition`, also killed in the middle.

use std::process::Stdio;
use std::time::{Duration, Instant};

use ezq::sqlx::postgres::PgConnection;
use ezq::sqlx::{self, Connection as _};
use ezq::testing::TestDatabase;
use serde_json::json;

use crate::program::{command, create, ezq, publish, publisher};

const PARTITION: [&str; 4] = ["queue", "partition", "orders", "4"];

#[ezq::test]
async fn a_queue_gets_partitions_only_when_that_is_confirmed(database: TestDatabase) {
    let url = database.url();
    let app = publisher(&database).await;
    create(&app, "orders").await;
    publish(&app, "orders", "order.paid", "{}").await;

    let dry = ezq(&url, &[&PARTITION[..], &["-n"]].concat());
    let would = "would give the queue `orders` 4 partitions, and move 1 event\n";
    dry.is(0, "", would);
    ezq(&url, &PARTITION).fails(
        4,
        "this moves 1 event of the queue `orders` from 1 partition to 4 partitions: nothing of it is \
         published or handled meanwhile: not without confirmation",
    );
    let few = ezq(
        &url,
        &[&PARTITION[..], &["--yes", "--at-most", "0"]].concat(),
    );
    few.fails(4, "the queue `orders` holds more than 0 events");
    ezq(&url, &["queue", "partition", "orders", "17", "--yes"]).fails(2, "1 to 16 partitions");

    let done = ezq(&url, &[&PARTITION[..], &["--yes", "--json"]].concat()).objects();
    let expected = json!({
        "queue": "orders", "partitions": 4, "before": 1, "changed": true, "moved": 1, "dry_run": false,
    });
    assert_eq!(done, [expected]);
    let again = ezq(&url, &[&PARTITION[..], &["--yes"]].concat());
    again.is(0, "", "the queue `orders` has 4 partitions already\n");

    let shown = ezq(&url, &["queue", "list", "--json"]).objects();
    assert_eq!(
        (&shown[0]["partitions"], &shown[0]["ready"]),
        (&json!(4), &json!(1))
    );
    let listed = ezq(&url, &["queue", "list"]);
    assert!(listed.stdout.contains("4 partitions"), "{listed:?}");
    let trail = ezq(&url, &["audit", "list", "--json"]).objects();
    assert_eq!(
        (
            &trail[0]["action"],
            &trail[0]["subject"],
            &trail[0]["count"]
        ),
        (&json!("partition"), &json!("1 to 4"), &json!(1))
    );
}

/// All that a queue holds, as one number, and in how many tables it is.
async fn sum(connection: &mut PgConnection) -> (i64, i64) {
    let sql = "SELECT coalesce(sum(hashtextextended(to_jsonb(q)::text, 0)::numeric % 1000000007), 0)::bigint,
                      count(DISTINCT tableoid)
               FROM pgmq.q_orders q";
    sqlx::query_as(sql).fetch_one(connection).await.unwrap()
}

#[ezq::test]
async fn a_command_that_is_killed_in_the_middle_has_changed_nothing(database: TestDatabase) {
    const MOVING: &str =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
        AND state = 'active' AND query LIKE 'INSERT INTO pgmq.q_orders %')";
    const GONE: &str = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND (query LIKE '%q_orders--%' OR query LIKE 'INSERT INTO pgmq.q_orders %'))";
    let url = database.url();
    let app = publisher(&database).await;
    create(&app, "orders").await;
    app.close().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let fill = "INSERT INTO pgmq.q_orders (vt, message, headers)
                SELECT now(), jsonb_build_object('n', n), jsonb_build_object('x-pgmq-group', (n % 100)::text)
                FROM generate_series(1, 45000) n";
    sqlx::query(fill).execute(&mut connection).await.unwrap();
    let before = sum(&mut connection).await;

    let kill = async |connection: &mut PgConnection, after: Duration| {
        let mut running = command(&[&PARTITION[..], &["--yes"]].concat())
            .env("EZQ_DATABASE_URL", &url)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until(connection, MOVING).await;
        tokio::time::sleep(after).await;
        running.kill().unwrap();
        running.wait().unwrap();
        until(connection, GONE).await;
    };
    for after in [0, 30, 60].map(Duration::from_millis) {
        kill(&mut connection, after).await;
        let (sum, tables) = sum(&mut connection).await;
        assert_eq!(sum, before.0, "killed {after:?} after it began to move");
        // At first it is killed while it moves. Later the kill may come after its end.
        assert!(
            tables == 1 || after > Duration::ZERO && tables == 4,
            "{tables}"
        );
        ezq(&url, &["queue", "partition", "orders", "1", "--yes"]);
    }

    let done = ezq(&url, &[&PARTITION[..], &["--yes"]].concat());
    done.is(
        0,
        "",
        "the queue `orders` has 4 partitions: 45000 events moved\n",
    );
    let (sum, tables) = sum(&mut connection).await;
    assert_eq!((sum, tables), (before.0, 4));
}

async fn until(connection: &mut PgConnection, question: &'static str) {
    let begun = Instant::now();
    loop {
        let answer = sqlx::query_scalar(question)
            .fetch_one(&mut *connection)
            .await;
        if answer.unwrap() {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "still not so: {question}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
