//! What a handler does to its own transaction counts as its attempt, and every event ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ezq::message::{Reason, ReasonKind};
use ezq::prelude::*;
use ezq::sqlx::{self, ConnectOptions as _};
use ezq::{Handler, QueueName};

use crate::database::{connection, run, server};
use crate::kit::{Numbered, app, drain, only_dead, queue, until};

/// A handler that runs statements in its transaction and succeeds; twice at most.
fn runs(text: String) -> Handler {
    let count = Arc::new(AtomicU32::new(0));
    let runs = Handler::on("runs", move |_: Numbered, mut tx: Tx| {
        // So that a consumer without end does not run for ever.
        assert!(
            count.fetch_add(1, Ordering::SeqCst) < 20,
            "it runs again and again"
        );

        let text = text.clone();
        async move {
            sqlx::raw_sql(sqlx::AssertSqlSafe(text))
                .execute(&mut *tx)
                .await
                .map(|_| ())
        }
    });
    runs.max_attempts(2)
}

/// The same for batches.
fn runs_batches(text: String) -> Handler {
    let count = Arc::new(AtomicU32::new(0));
    let runs = Handler::on_batch("runs", move |_: Batch<Numbered>, mut tx: Tx| {
        assert!(
            count.fetch_add(1, Ordering::SeqCst) < 20,
            "it runs again and again"
        );

        let text = text.clone();
        async move {
            sqlx::raw_sql(sqlx::AssertSqlSafe(text))
                .execute(&mut *tx)
                .await
                .map(|_| ())
        }
    });
    runs.max_attempts(2)
}

/// Handles one event whose handler spoils its own transaction; what it dies of.
async fn death(queue: &QueueName, handler: Handler, setup: &str) -> Reason {
    let ezq = app(queue).register(handler).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();

    // A session of its own, so that it may hold a lock until all is over.
    let mut session = ezq.pool().connect_options().connect().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(setup.to_owned()))
        .execute(&mut session)
        .await
        .unwrap();
    drain(&ezq).await;
    only_dead(&ezq, queue).await.reason.unwrap()
}

/// Both kinds of handlers die of it after two attempts, and say why.
async fn is_the_handlers_own(text: &str, setup: &str, why: &str) {
    for (handler, kind) in [
        (runs as fn(String) -> Handler, "one"),
        (runs_batches, "batch"),
    ] {
        let queue = queue();
        let name = format!("{queue}_{kind}");
        let text = text.replace("QUEUE", queue.as_str());
        let setup = setup.replace("NAME", &name);
        let handler = handler(text.replace("NAME", &name));
        let reason = death(&queue, handler, &setup).await;

        let expected = (ReasonKind::MaxAttempts, 2, Some("runs".into()));
        assert_eq!(
            (reason.kind, reason.attempts, reason.handler),
            expected,
            "{kind}"
        );
        assert!(reason.error.contains(why), "{kind}: {}", reason.error);
        assert!(
            !reason.error.contains("queue"),
            "{kind} blames the queue: {}",
            reason.error
        );
    }
}

#[tokio::test]
async fn a_read_only_transaction_is_the_handlers_own() {
    is_the_handlers_own(
        "set transaction read only",
        "",
        "made its transaction read-only",
    )
    .await;
}

/// A table whose deferred trigger runs a statement at the commit.
fn deferred(statement: &str) -> String {
    format!(
        "create table public.t_NAME (n int);
         create function public.f_NAME() returns trigger language plpgsql as
           $$ begin {statement}; return null; end $$;
         create constraint trigger deferred after insert on public.t_NAME
           deferrable initially deferred for each row execute function public.f_NAME()"
    )
}

#[tokio::test]
async fn a_deferred_trigger_that_misses_a_table_is_the_handlers_own() {
    let setup = deferred("perform 1 from public.nowhere");
    is_the_handlers_own(
        "insert into public.t_NAME values (1)",
        &setup,
        "could not be committed",
    )
    .await;
}

#[tokio::test]
async fn a_deferred_trigger_that_waits_for_too_long_is_the_handlers_own() {
    let setup = deferred("perform pg_advisory_xact_lock(hashtext('NAME'))");
    let setup = format!("{setup}; select pg_advisory_lock(hashtext('NAME'))");
    let text = "set local lock_timeout = '50ms'; insert into public.t_NAME values (1)";
    is_the_handlers_own(text, &setup, "could not be committed").await;
}

/// Of what a cancelled commit had come to nobody knows: the message tells.
#[tokio::test]
async fn a_commit_that_is_cancelled_is_no_attempt() {
    let queue = queue();
    let cancelled = "if nextval('public.s_NAME') = 1 then
                       raise exception using errcode = 'query_canceled'; end if";
    let setup = format!("create sequence public.s_NAME; {}", deferred(cancelled));
    let insert = format!("insert into public.t_{queue} values (1)");
    let ezq = app(&queue)
        .register(runs(insert).max_attempts(1))
        .connect()
        .await
        .unwrap();

    let setup = sqlx::AssertSqlSafe(setup.replace("NAME", queue.as_str()));
    sqlx::raw_sql(setup).execute(ezq.pool()).await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 0);

    // It is put off for a while.
    until(|| async { drain(&ezq).await.counts.handled == 1 }).await;
}

/// Each renewal of the lease changes the message after the transaction's snapshot.
#[tokio::test]
async fn a_transaction_that_is_made_serializable_is_the_handlers_own() {
    let queue = queue();
    let count = Arc::new(AtomicU32::new(0));
    let renew = format!("update pgmq.q_{queue} set vt = vt + interval '1 s'");

    let isolates = Handler::on("isolates", move |_: Numbered, mut tx: Tx| {
        assert!(
            count.fetch_add(1, Ordering::SeqCst) < 20,
            "it runs again and again"
        );

        let renew = renew.clone();
        async move {
            let text = "set transaction isolation level serializable; select 1";
            sqlx::raw_sql(text).execute(&mut *tx).await?;
            run(&mut connection(&server().await.url()).await, &renew).await;
            Ok::<_, sqlx::Error>(())
        }
    });

    let reason = death(&queue, isolates.max_attempts(2), "").await;
    assert_eq!((reason.kind, reason.attempts), (ReasonKind::MaxAttempts, 2));
    assert!(reason.error.contains("isolation level"), "{}", reason.error);
}

#[tokio::test]
async fn a_handler_that_removes_its_own_message_is_told_not_to() {
    let text = "delete from pgmq.q_QUEUE";
    is_the_handlers_own(text, "", "changed or removed its own message").await;
}

#[tokio::test]
async fn a_handler_that_cancels_its_token_commits_all_the_same() {
    let queue = queue();
    let count = Arc::new(AtomicU32::new(0));

    let cancels = Handler::on(
        "cancels",
        move |_: Numbered, mut tx: Tx, context: Context| {
            assert!(
                count.fetch_add(1, Ordering::SeqCst) < 20,
                "it runs again and again"
            );
            async move {
                let _guard = context.cancellation().drop_guard();
                sqlx::query("select 1").execute(&mut *tx).await.map(|_| ())
            }
        },
    );

    let ezq = app(&queue).register(cancels).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 1);
}
