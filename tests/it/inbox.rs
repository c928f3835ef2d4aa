//! Effects in another database than the queue's: once for each event, whatever happens to workers.

use std::time::Duration;

use ezq::pgmq::Inbox;
use ezq::prelude::*;
use ezq::sqlx::postgres::{PgConnection, PgPool};
use ezq::sqlx::{self, Connection as _};
use ezq::{ErrorKind, Handler, QueueName};
use serde::{Deserialize, Serialize};

use crate::child::{Job, Process, Role, say};
use crate::database::{self, connection, run, scalar, server, unique};
use crate::kit::{Log, Numbered, app, drain, queue, send_batch, soon};

/// A database beside the queue's, with a table for effects and no inbox yet.
async fn elsewhere() -> (String, PgPool) {
    let name = unique("elsewhere");
    let mut own = connection(&server().await.url()).await;
    run(&mut own, &format!("CREATE DATABASE {name}")).await;

    let url = server().await.database_url(name.as_str());
    let pool = PgPool::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE effects (n bigint)")
        .execute(&pool)
        .await
        .unwrap();
    (url, pool)
}

async fn with_inbox() -> (String, PgPool) {
    let (url, pool) = elsewhere().await;
    Inbox::create(&mut pool.acquire().await.unwrap())
        .await
        .unwrap();
    (url, pool)
}

/// One effect, committed with its note; whether it was the first.
async fn take_effect(pool: &PgPool, context: &Context, n: i64) -> Result<bool, HandlerError> {
    let mut tx = pool.begin().await?;
    if !Inbox::first(&mut tx, context).await? {
        return Ok(false);
    }

    sqlx::query("INSERT INTO effects VALUES ($1)")
        .bind(n)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(true)
}

async fn effects(pool: &PgPool) -> Vec<i64> {
    sqlx::query_scalar("SELECT n FROM effects ORDER BY n")
        .fetch_all(pool)
        .await
        .unwrap()
}

/// A worker whose handler commits elsewhere and never comes to its acknowledgement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Booker {
    queue: String,
    elsewhere: String,
}

pub(crate) async fn book(booker: Booker) {
    let pool = PgPool::connect(&booker.elsewhere).await.unwrap();
    let handler = Handler::on("book", move |Job { n }: Job, context: Context| {
        let pool = pool.clone();
        async move {
            let first = take_effect(&pool, &context, n).await?;
            say(&format!("booked {first}"));
            std::future::pending::<Result<(), HandlerError>>().await
        }
    });

    let ezq = Ezq::builder()
        .without_discovered_handlers()
        .register(handler);

    let ezq = ezq.connect().await.unwrap();
    let lease = Duration::from_secs(1);
    ezq.consumer()
        .queue(booker.queue)
        .lease(lease)
        .run()
        .await
        .unwrap();
}

/// The session is the application's, and so is its search path.
#[tokio::test]
async fn nothing_of_the_search_path_runs_with_the_rights_of_who_notes_an_event() {
    let (elsewhere, pool) = with_inbox().await;
    let trap = "CREATE SCHEMA trap; CREATE TABLE trap.sprung (n int);
                CREATE FUNCTION trap.convert_to(text, text) RETURNS bytea LANGUAGE plpgsql AS
                  $$ BEGIN INSERT INTO trap.sprung VALUES (1); RETURN ''; END $$";
    sqlx::raw_sql(trap).execute(&pool).await.unwrap();

    let pool = PgPool::connect(&format!("{elsewhere}&options=-csearch_path%3Dpublic,trap"))
        .await
        .unwrap();
    let queue = queue();

    let handler = Handler::on("book", {
        let pool = pool.clone();
        move |event: Numbered, context: Context| {
            let pool = pool.clone();
            async move { take_effect(&pool, &context, event.n).await.map(drop) }
        }
    });
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.engine(&queue).ensure_queue(&queue).await.unwrap();

    // So long that it is kept as its hash.
    let id = "n".repeat(1000);
    let of = <Numbered as Event>::TYPE;
    let body = format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"{of}","data":{{"n":1}}}}"#
    );
    send_batch(&ezq, &queue, &[body]).await;
    assert_eq!(drain(&ezq).await.counts.handled, 1);
    assert_eq!(effects(&pool).await, [1]);

    let sprung: i64 = sqlx::query_scalar("SELECT count(*) FROM trap.sprung")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(sprung, 0);
}

#[tokio::test]
async fn a_worker_that_is_killed_before_it_acknowledges_leaves_one_effect() {
    let (elsewhere, pool) = with_inbox().await;
    let url = server().await.url();
    let queue = unique("inbox");
    let log = Log::new();
    let ledger = pool.clone();
    let seen = log.clone();

    let handler = Handler::on("book", move |Job { n }: Job, context: Context| {
        let pool = ledger.clone();
        let seen = seen.clone();
        async move {
            seen.push((take_effect(&pool, &context, n).await?, context.deliveries()));
            Ok::<(), HandlerError>(())
        }
    });

    let ezq = database::app(&url, [handler]).await;
    ezq.publish(&Job { n: 7 }).queue(&queue).await.unwrap();

    let booker = Booker {
        queue: queue.to_string(),
        elsewhere,
    };
    let mut child = Process::start(&url, &Role::Booker(booker));
    assert_eq!(child.hear("booked").await, "true");
    child.kill().await;

    let consumer = ezq.consumer().queue(&queue).spawn();
    soon(async {
        while consumer.counts().handled == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;

    consumer.stop();
    soon(consumer).await.unwrap();

    // Delivered again, and done before.
    assert_eq!(log.take(), [(false, 2)]);
    assert_eq!(effects(&pool).await, [7]);
}

#[tokio::test]
async fn a_handler_that_fails_after_its_commit_has_one_effect_and_each_handler_its_own() {
    let (_, pool) = with_inbox().await;
    let queue = queue();

    let handler = |name: &str| {
        let pool = pool.clone();
        Handler::on(name, move |Numbered { n }: Numbered, context: Context| {
            let pool = pool.clone();
            async move {
                take_effect(&pool, &context, n).await?;
                if context.attempt() < 3 {
                    return Err(HandlerError::from("after the commit"));
                }
                Ok(())
            }
        })
    };

    let ezq = app(&queue)
        .register(handler("one"))
        .register(handler("other"));
    let ezq = ezq.connect().await.unwrap();
    for n in [1, 2] {
        ezq.publish(&Numbered { n }).await.unwrap();
    }

    assert_eq!(drain(&ezq).await.counts.handled, 2);
    assert_eq!(effects(&pool).await, [1, 1, 2, 2]);
}

#[tokio::test]
async fn an_effect_that_rolls_back_is_taken_by_the_next_attempt() {
    let (_, pool) = with_inbox().await;
    let queue = queue();
    let ledger = pool.clone();

    let handler = Handler::on("work", move |Numbered { n }: Numbered, context: Context| {
        let pool = ledger.clone();
        async move {
            if context.attempt() == 1 {
                let mut tx = pool.begin().await?;
                assert!(Inbox::first(&mut tx, &context).await?);
                return Err(HandlerError::from("before the commit"));
            }
            take_effect(&pool, &context, n).await.map(drop)
        }
    });

    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;
    assert_eq!(effects(&pool).await, [1]);
}

#[tokio::test]
async fn of_two_at_once_the_second_waits_for_the_first() {
    let (_, pool) = with_inbox().await;
    let queue = queue();
    let log = Log::new();
    let ledger = pool.clone();
    let seen = log.clone();

    let handler = Handler::on("work", move |Numbered { n }: Numbered, context: Context| {
        let pool = ledger.clone();
        let seen = seen.clone();

        async move {
            let mut first = pool.begin().await?;
            assert!(Inbox::first(&mut first, &context).await?);

            let other = pool.clone();
            let same = context.clone();
            let second = tokio::spawn(async move {
                let mut tx = other.begin().await.unwrap();
                Inbox::first(&mut tx, &same).await.unwrap()
            });
            let question = "SELECT count(*) > 0 FROM pg_stat_activity
                            WHERE datname = current_database() AND wait_event_type = 'Lock'";
            database::until(&mut *pool.acquire().await?, question).await;
            assert!(!second.is_finished());

            match n {
                1 => first.commit().await?,
                _ => first.rollback().await?,
            }
            seen.push((n, second.await?));
            Ok::<(), HandlerError>(())
        }
    });

    let ezq = app(&queue).register(handler).connect().await.unwrap();
    for n in [1, 2] {
        ezq.publish(&Numbered { n }).await.unwrap();
        drain(&ezq).await;
    }
    assert_eq!(log.take(), [(1, false), (2, true)]);
}

#[tokio::test]
async fn old_rows_are_forgotten_and_young_ones_are_not() {
    let (_, pool) = with_inbox().await;
    let fill = "INSERT INTO ezq.inbox SELECT 'work', '/x', n::text,
                  clock_timestamp() - CASE WHEN n > 10 THEN interval '2 h' ELSE interval '0' END
                FROM generate_series(1, 2510) n";
    sqlx::raw_sql(fill).execute(&pool).await.unwrap();

    let mut own = pool.acquire().await.unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(Inbox::forget(&mut own, hour).await.unwrap(), 2500);
    assert_eq!(Inbox::forget(&mut own, Duration::MAX).await.unwrap(), 0);
    assert_eq!(
        scalar::<i64>(&mut own, "SELECT count(*) FROM ezq.inbox").await,
        10
    );
}

#[tokio::test]
async fn without_its_table_the_inbox_says_what_to_call() {
    let (_, pool) = elsewhere().await;
    let error = Inbox::forget(&mut pool.acquire().await.unwrap(), Duration::ZERO).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SchemaMissing);
    assert!(error.to_string().contains("Inbox::create"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_may_create_the_inbox_at_once_and_a_role_without_rights_may_ask_for_it() {
    let (url, pool) = elsewhere().await;
    let create = |_| {
        let url = url.clone();
        tokio::spawn(async move {
            let mut own = PgConnection::connect(&url).await.unwrap();
            Inbox::create(&mut own).await.unwrap();
        })
    };

    let all: Vec<_> = (0..10).map(create).collect();
    for one in all {
        one.await.unwrap();
    }

    let role = unique("role");
    let mut own = pool.acquire().await.unwrap();
    run(&mut own, &format!("CREATE ROLE {role} LOGIN")).await;
    run(&mut own, &Inbox::setup_sql(Some(role.as_str()))).await;

    let mut least = connection(&url.replace("postgres@", &format!("{role}@"))).await;
    Inbox::create(&mut least).await.unwrap();
    assert_eq!(Inbox::forget(&mut least, Duration::ZERO).await.unwrap(), 0);
    // No table of the engine's came along.
    assert!(scalar::<bool>(&mut own, "SELECT to_regclass('ezq.dedupe') IS NULL").await);
}

#[tokio::test]
async fn an_inbox_may_stand_beside_the_queues_own_tables() {
    let name = unique("both");
    let mut admin = connection(&server().await.url()).await;
    run(&mut admin, &format!("CREATE DATABASE {name}")).await;

    let url = server().await.database_url(name.as_str());
    let ezq = database::app(&url, []).await;
    let mut own = connection(&url).await;
    Inbox::create(&mut own).await.unwrap();

    let queue = QueueName::new("orders").unwrap();
    for is_duplicate in [false, true] {
        let publish = ezq
            .publish(&Numbered { n: 1 })
            .queue(&queue)
            .dedupe_key("1");
        assert_eq!(publish.await.unwrap().is_duplicate, is_duplicate);
    }

    Inbox::create(&mut own).await.unwrap();
    let versions = "SELECT array_agg(version ORDER BY version) FROM ezq.migrations";
    assert_eq!(scalar::<Vec<i32>>(&mut own, versions).await, [1, 2]);
}

#[tokio::test]
async fn an_event_with_a_long_id_takes_effect_once() {
    let (_, pool) = with_inbox().await;
    let queue = queue();
    let ledger = pool.clone();
    let handler = Handler::on("book", move |event: Numbered, context: Context| {
        let pool = ledger.clone();
        async move { take_effect(&pool, &context, event.n).await.map(drop) }
    });
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.engine(&queue).ensure_queue(&queue).await.unwrap();

    // Of a kind that does not compress.
    let id: String = (0..1000_u32)
        .map(|n| format!("{:08x}", n.wrapping_mul(2_654_435_761)))
        .collect();

    let body = |id: &str, n: i64| {
        let of = <Numbered as Event>::TYPE;
        format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"{of}","data":{{"n":{n}}}}}"#
        )
    };

    let bodies = [body(&id, 1), body(&id, 1), body(&format!("{id}x"), 2)];
    send_batch(&ezq, &queue, &bodies).await;
    assert_eq!(drain(&ezq).await.counts.handled, 3);
    assert_eq!(effects(&pool).await, [1, 2]);
}
