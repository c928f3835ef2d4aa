//! Health and restarts on Postgres: what a probe is told when the database goes, and what a right
//! that comes late does.

use std::time::Duration;

use ezq::Handler;
use ezq::consumer::ConsumerState;
use ezq::handler::Backoff;
use ezq::pgmq::embedded::EmbeddedPostgres;

use crate::database::{app, connection, run, server, unique};
use crate::kit::{Numbered, soon, until};

#[tokio::test]
async fn health_follows_the_database() {
    let postgres = EmbeddedPostgres::builder().start().await.unwrap();
    let handler = Handler::on("quick", |_: Numbered| async {});
    let ezq = app(&postgres.url(), [handler]).await;
    let handle = ezq.consumer().spawn();
    until(async || ezq.health().await.is_ready()).await;

    let health = ezq.health().await;
    assert_eq!(
        (&health.engines[0].name, health.engines[0].kind),
        (&None, "pgmq")
    );
    assert!(health.engines[0].answered_in.is_some());

    postgres.stop(false).await.unwrap();
    until(async || !ezq.health().await.is_ready()).await;

    // The consumer rides it out: no reason to end the process.
    let health = ezq.health().await;
    assert!(
        health.is_live() && health.engines[0].error.is_some(),
        "{health}"
    );
    assert!(handle.is_running());

    postgres.start_again().await.unwrap();
    until(async || ezq.health().await.is_ready()).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    until(async || handle.counts().handled == 1).await;
    handle.stop();
    soon(handle).await.unwrap();
}

#[tokio::test]
async fn the_lag_is_how_long_the_oldest_event_waits() {
    let queue = unique("health");
    let ezq = app(&server().await.url(), []).await;
    ezq.publish(&Numbered { n: 1 }).queue(&queue).await.unwrap();

    let mut own = connection(&server().await.url()).await;
    run(
        &mut own,
        &format!("UPDATE pgmq.q_{queue} SET vt = vt - interval '1 hour'"),
    )
    .await;

    let hour = Duration::from_secs(3600);
    let lag = ezq.engine(&queue).lag(&queue).await.unwrap().unwrap();
    assert!(lag >= hour && lag < 2 * hour, "{lag:?}");
}

#[tokio::test]
async fn a_consumer_that_lacks_a_right_starts_again_until_it_is_granted() {
    let url = server().await.url();
    let queue = unique("health");
    let role = unique("health_role");
    let mut own = connection(&url).await;

    // Makes sure that PGMQ stands.
    app(&url, []).await;
    run(&mut own, &format!("CREATE ROLE {role} LOGIN")).await;
    run(&mut own, &format!("GRANT USAGE ON SCHEMA pgmq TO {role}")).await;

    let handler = Handler::on("quick", |_: Numbered| async {});
    let ezq = app(&url.replace("postgres@", &format!("{role}@")), [handler]).await;
    let consumer = ezq.consumer().queue(&queue);
    let handle = consumer
        .restart(Backoff::constant(Duration::from_millis(50)))
        .spawn();
    let restarting = |state: &ConsumerState| matches!(state, ConsumerState::Restarting(_));
    soon(handle.states().wait_for(restarting)).await.unwrap();
    assert!(ezq.health().await.is_live());

    let setup = ezq::pgmq::setup_sql([&queue], Some(role.as_str())).unwrap();
    // Here PGMQ is not there as an extension.
    let setup = &setup.replace("create extension if not exists pgmq;", "");
    run(&mut own, setup).await;

    soon(
        handle
            .states()
            .wait_for(|state| *state == ConsumerState::Running),
    )
    .await
    .unwrap();

    ezq.publish(&Numbered { n: 1 }).queue(&queue).await.unwrap();
    until(async || handle.counts().handled == 1).await;
    until(async || ezq.health().await.is_ready()).await;
    handle.stop();
    soon(handle).await.unwrap();
}
