//! Passwords that change while connections stand.

use ezq_core::engine::Engine as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ezq_pgmq::embedded::EmbeddedPostgres;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection};

use crate::support::*;

/// A server that asks for passwords, and the URL of a login with one.
async fn guarded() -> (EmbeddedPostgres, PgConnection) {
    let server = EmbeddedPostgres::builder().start().await.unwrap();
    let mut own = PgConnection::connect(&server.url()).await.unwrap();
    let prepare = "CREATE ROLE app LOGIN PASSWORD 'one'; GRANT CREATE ON DATABASE postgres TO app";
    run(&mut own, prepare).await;

    let hba: String = scalar(&mut own, "SHOW hba_file").await;
    let lines = format!(
        "COPY (SELECT line FROM (VALUES ('local all postgres trust'),
                                        ('local all all scram-sha-256')) v(line)) TO '{hba}'"
    );
    run(&mut own, &lines).await;
    run(&mut own, "SELECT pg_reload_conf()").await;

    // The reload takes a moment; until then every password is accepted.
    let wrong = options(&server, "wrong");
    while PgConnection::connect_with(&wrong).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (server, own)
}

fn options(server: &EmbeddedPostgres, password: &str) -> PgConnectOptions {
    server.connect_options().username("app").password(password)
}

/// Changes the login's password, and ends its sessions.
async fn rotate(own: &mut PgConnection) {
    let rotate = "ALTER ROLE app PASSWORD 'two';
                  SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'app'";
    run(own, rotate).await;
}

/// Everything works again, on whichever connection.
async fn works(engine: &PgmqEngine, queue: &ezq_core::message::QueueName) {
    let all = async {
        let healthy = async {
            while engine.health_check().await.is_err() || engine.stats(queue).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            while engine.publish(vec![message(queue, "1")]).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        healthy.await;
        acknowledge_all(engine, queue).await;
    };
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .expect("it works again");
}

#[tokio::test]
async fn a_password_that_the_pool_was_given_counts_for_ezqs_connections_as_well() {
    let (server, mut own) = guarded().await;
    let pool = PgPoolOptions::new()
        .connect_with(options(&server, "one"))
        .await
        .unwrap();
    let engine = PgmqEngine::connect(PgmqConfig::pool(pool.clone()))
        .await
        .unwrap();

    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    works(&engine, &queue).await;
    pool.set_connect_options(options(&server, "two"));
    rotate(&mut own).await;
    works(&engine, &queue).await;
}

#[tokio::test]
async fn a_password_comes_from_a_function_that_is_asked_again() {
    let (server, mut own) = guarded().await;
    let one = options(&server, "one");
    let two = options(&server, "two");
    let is_rotated = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_rotated);
    let config = PgmqConfig::options(one.clone()).options_from(move || {
        if asked.load(Ordering::SeqCst) {
            two.clone()
        } else {
            one.clone()
        }
    });

    let engine = PgmqEngine::connect(config).await.unwrap();
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    works(&engine, &queue).await;
    is_rotated.store(true, Ordering::SeqCst);
    rotate(&mut own).await;
    works(&engine, &queue).await;
}
