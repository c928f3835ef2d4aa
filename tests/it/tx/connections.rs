//! The connections that transactions run on: how few are enough, and what none leaves behind.

use std::time::Duration;

use ezq::prelude::*;
use ezq::{Handler, QueueName, sqlx};

use super::{Ledger, books, row};
use crate::kit::{Numbered, app, drain, numbered, queue};

#[tokio::test]
async fn a_pool_of_one_is_enough_for_several_handlers() {
    let queue = queue();
    let first = app(&queue).connect().await.unwrap();
    let ledger = Ledger::create(&first, &queue).await;
    let options = first.pool().connect_options().as_ref().clone();
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options);

    let builder = app(&queue).pool(pool);
    let builder = builder
        .register(books(&queue, "one"))
        .register(books(&queue, "two"));
    let ezq = builder.connect().await.unwrap();
    ezq.publish_all(&numbered(1..=20)).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 20);

    let expected: Vec<_> = (1..=20)
        .flat_map(|n| [row(n, "one"), row(n, "two")])
        .collect();
    assert_eq!(ledger.read(&first).await, expected);
}

/// Fails its first attempt in one of four ways, and tells in which transaction it wrote.
fn stumbles(queue: &QueueName) -> Handler {
    let ledger = Ledger::of(queue);
    let once = format!("insert into public.once_{queue} values (0)");

    let handler = Handler::on(
        "stumbles",
        move |event: Numbered, mut tx: Tx, context: Context| {
            let ledger = ledger.clone();
            let once = once.clone();

            async move {
                let text =
                    "select pg_current_xact_id()::text || ' ' || current_setting('ezq.unit')";
                let unit: String = sqlx::query_scalar(text).fetch_one(&mut *tx).await?;
                ledger.write(&mut tx, event.n, &unit).await?;

                if context.attempt() > 1 {
                    return Ok(());
                }

                match event.n % 20 {
                    // Is refused by the commit.
                    1 | 8 => sqlx::raw_sql(sqlx::AssertSqlSafe(once))
                        .execute(&mut *tx)
                        .await
                        .map(|_| ()),
                    // Is cut off while a statement runs.
                    5 => sqlx::query("select pg_sleep(62)")
                        .execute(&mut *tx)
                        .await
                        .map(|_| ()),
                    9 | 10 => sqlx::query("select 1 / 0")
                        .execute(&mut *tx)
                        .await
                        .map(|_| ()),
                    14 => panic!("on purpose"),
                    _ => Ok(()),
                }
            }
        },
    );

    handler.timeout(Some(Duration::from_millis(500)))
}

/// What was cut off is rolled back beside what follows, so the last of it may take a moment.
async fn no_transaction_stays_open(ezq: &Ezq) {
    let open = "select count(*) from pg_stat_activity \
                where datname = current_database() and application_name like 'ezq-tx-%'";
    let closed = async {
        loop {
            let open: i64 = sqlx::query_scalar(open)
                .fetch_one(ezq.pool())
                .await
                .unwrap();
            if open == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };

    tokio::time::timeout(Duration::from_secs(30), closed)
        .await
        .expect("a transaction stays open");
}

#[tokio::test]
async fn transactions_on_a_connection_that_is_handed_on_are_strangers_to_each_other() {
    let queue = queue();
    // Many more than the pool has connections.
    let builder = app(&queue).configure(|config| config.concurrency = 64);
    let ezq = builder.register(stumbles(&queue)).connect().await.unwrap();
    let ledger = Ledger::create(&ezq, &queue).await;

    let create = format!(
        "create table public.once_{queue} (n int unique deferrable initially deferred);
         insert into public.once_{queue} values (0)"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(create))
        .execute(ezq.pool())
        .await
        .unwrap();
    ezq.publish_all(&numbered(0..400)).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!(
        (counts.handled, counts.retried, counts.dead_lettered),
        (400, 120, 0)
    );

    let rows = ledger.read(&ezq).await;
    assert_eq!(
        rows.iter().map(|(n, _)| *n).collect::<Vec<_>>(),
        (0..400).collect::<Vec<_>>()
    );

    let column = |i: usize| {
        rows.iter()
            .map(move |(_, unit)| unit.split(' ').nth(i).unwrap())
    };
    for i in [0, 1] {
        let units: std::collections::BTreeSet<_> = column(i).collect();
        assert_eq!(units.len(), 400, "each event has its transaction");
    }
    no_transaction_stays_open(&ezq).await;
}
