//! Trials by fault: workers in processes of their own, on a real server, while something goes wrong.
//!
//! Each event is handled by a `Tx` handler, which writes a row and returns a second event, and by
//! one that writes on a connection of its own; the second event by another `Tx` handler. In the end
//! the ledger must hold exactly one row of each `Tx` handler for each event, at least one of the
//! other, and the queue nothing.

mod ledger;
mod takeover;
mod worker;

use std::time::{Duration, Instant};

use ezq::pgmq::embedded::EmbeddedPostgres;

use self::ledger::Trial;
pub(crate) use self::worker::{Plan, work};
use crate::child::Process;
use crate::database::{connection, run, scalar, server, unique};
use crate::proxy::{Mode, Proxy};
use crate::skip;

/// Longer than any lease, retry or limit of a trial: work that stands still for so long goes on no more.
const STANDSTILL: Duration = Duration::from_secs(60);

async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

#[tokio::test]
async fn workers_are_killed_at_random_moments() {
    let mut trial = Trial::new(&server().await.url(), 1500).await;
    trial.start_several(3).await;
    for kill in 0..8 {
        pause(50 + trial.lot(kill, 400)).await;
        trial.replace(usize::try_from(kill % 3).unwrap()).await;
    }

    assert!(
        trial.left().await > 0,
        "the work was over before the last kill"
    );
    trial.settle().await;
}

#[tokio::test]
async fn the_server_crashes_and_restarts() {
    let postgres = EmbeddedPostgres::builder().start().await.unwrap();
    let mut trial = Trial::new(&postgres.url(), 1500).await;
    trial.start_several(2).await;

    for crash in 0..3 {
        pause(200 + trial.lot(crash, 500)).await;
        postgres.stop(crash % 3 != 2).await.unwrap();
        pause(trial.lot(crash + 10, 1500)).await;
        postgres.start_again().await.unwrap();
    }

    assert!(
        trial.left().await > 0,
        "the work was over before the last crash"
    );
    trial.settle().await;
}

#[tokio::test]
async fn connections_are_cut_stalled_and_half_open() {
    let url = server().await.url();
    let (proxy, proxied) = Proxy::before(&url);
    let mut trial = Trial::new(&url, 500).await;
    trial.start(&proxied).await;
    trial.start_several(1).await;

    for fault in 0..10_u64 {
        // There is always work for the fault to meet.
        trial.publish(200).await;
        pause(100 + trial.lot(fault, 200)).await;

        let while_it_is = match fault % 5 {
            0 => {
                proxy.cut();
                continue;
            }
            1 => {
                proxy.strand();
                continue;
            }
            2 => Mode::Stall,
            3 => Mode::Swallow,
            _ => Mode::Mute,
        };

        // For longer than the lease: the other worker takes over.
        proxy.set(while_it_is);
        pause(1200 + trial.lot(fault, 500)).await;

        if while_it_is != Mode::Stall {
            // What was lost in between cannot be made up for.
            proxy.cut();
        }
        proxy.set(Mode::Pass);
    }

    assert!(
        trial.left().await > 0,
        "the work was over before the last fault"
    );
    trial.settle().await;
}

#[tokio::test]
async fn a_worker_whose_connections_are_half_open_for_good_harms_no_other() {
    let url = server().await.url();
    let (proxy, proxied) = Proxy::before(&url);
    let mut trial = Trial::new(&url, 300).await;
    trial.start(&proxied).await;
    pause(100).await;
    proxy.set(Mode::Swallow);
    trial.start_several(1).await;

    trial.work_off().await;
    trial.workers[0].kill().await;
    trial.workers.remove(0);
    trial.settle().await;
}

#[tokio::test]
async fn workers_clocks_are_wrong() {
    let test = "trials::workers_clocks_are_wrong";
    let Some(_) = skip::program("faketime", "faketime", test) else {
        return;
    };
    let mut trial = Trial::new(&server().await.url(), 600).await;

    for offset in ["+3h", "-2d"] {
        let role = trial.role();
        let mut worker = Process::start_at(offset, &trial.url, &role).await;
        worker.hear("ready").await;
        trial.workers.push(worker);
    }

    let clock = trial.workers[0].hear("clock").await.parse::<i64>().unwrap();
    let ours = ezq::chrono::Utc::now().timestamp();
    assert!(
        (clock - ours - 3 * 3600).abs() < 60,
        "the worker's clock says {clock}, ours {ours}"
    );

    pause(300).await;
    trial.replace(0).await;
    trial.settle().await;
}

#[tokio::test]
async fn the_database_is_read_only_for_a_while() {
    let mut trial = {
        let mut own = connection(&server().await.url()).await;
        let database = unique("read_only");
        run(&mut own, &format!("create database {database}")).await;
        Trial::new(&server().await.database_url(database.as_str()), 1000).await
    };
    trial.start_several(2).await;

    for _ in 0..2 {
        pause(300).await;
        for (state, length) in [("on", 1200), ("off", 0)] {
            let mut own = connection(&server().await.url()).await;
            let database: String = scalar(
                &mut connection(&trial.url).await,
                "select current_database()::text",
            )
            .await;

            let alter = format!(
                "alter database {database} set default_transaction_read_only = {state};
                 select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = '{database}' and pid <> pg_backend_pid()"
            );
            run(&mut own, &alter).await;
            pause(length).await;
        }
    }

    trial.settle().await;
}

#[tokio::test]
async fn a_pool_of_one_connection_is_enough() {
    let mut trial = Trial::new(&server().await.url(), 300).await;
    trial.plan.pool = 1;
    trial.start_several(2).await;
    pause(200).await;
    trial.replace(0).await;
    trial.settle().await;
}

/// How a soak chooses what goes wrong next.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Crash,
    Cut,
    Stall,
    Swallow,
    Mute,
    Strand,
}

/// Not part of the suite: `SOAK_MINUTES=20 cargo test -p ezq --test it trials::soak -- --ignored
/// --nocapture` goes on for so long, with one fault after the other, and prints the ledger.
#[tokio::test]
#[ignore = "runs for SOAK_MINUTES"]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn soak() {
    let minutes: u64 = std::env::var("SOAK_MINUTES").map_or(1, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let postgres = EmbeddedPostgres::builder()
        .durable(true)
        .start()
        .await
        .unwrap();

    let (proxy, proxied) = Proxy::before(&postgres.url());
    let mut trial = Trial::new(&postgres.url(), 500).await;
    trial.start_several(2).await;
    trial.start(&proxied).await;
    let mut faults = std::collections::BTreeMap::<String, u32>::new();
    let mut round = 0;

    while Instant::now() < end {
        round += 1;
        if trial.left().await < 2000 {
            trial.publish(500).await;
        }
        pause(trial.lot(round, 2000)).await;

        let kinds = [
            Fault::Kill,
            Fault::Kill,
            Fault::Crash,
            Fault::Cut,
            Fault::Stall,
            Fault::Swallow,
            Fault::Mute,
            Fault::Strand,
        ];

        let fault = kinds[usize::try_from(trial.lot(round << 8, 8)).unwrap()];
        let length = trial.lot(round << 16, 4000);

        match fault {
            Fault::Kill => {
                let place = usize::try_from(length % 3).unwrap();
                trial.workers[place].kill().await;
                let role = trial.role();

                let url = if place == 2 {
                    proxied.clone()
                } else {
                    trial.url.clone()
                };
                trial.workers[place] = Process::start(&url, &role);
                trial.workers[place].hear("ready").await;
            }
            Fault::Crash => {
                postgres.stop(length % 2 == 0).await.unwrap();
                pause(length).await;
                postgres.start_again().await.unwrap();
            }
            Fault::Cut => proxy.cut(),
            Fault::Stall => {
                proxy.set(Mode::Stall);
                pause(length).await;
                proxy.set(Mode::Pass);
            }
            Fault::Strand => proxy.strand(),
            Fault::Swallow | Fault::Mute => {
                proxy.set(if matches!(fault, Fault::Mute) {
                    Mode::Mute
                } else {
                    Mode::Swallow
                });
                pause(length).await;
                proxy.cut();
                proxy.set(Mode::Pass);
            }
        }

        *faults.entry(format!("{fault:?}")).or_default() += 1;
    }

    println!("{minutes} minutes, faults: {faults:?}");
    let began = Instant::now();
    trial.settle().await;
    println!(
        "worked off within {:.1?} of the last fault",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_restart_that_takes_longer_than_the_lease_makes_nobody_take_over_what_is_held() {
    let postgres = EmbeddedPostgres::builder().start().await.unwrap();
    let mut trial = Trial::new(&postgres.url(), 4).await;
    trial.plan.takes = Duration::from_secs(7);
    trial.plan.lease = Duration::from_secs(2);
    trial.start_several(1).await;

    let held = format!(
        "select count(*) = 4 from pgmq.q_{} where read_ct = 1",
        trial.queue
    );
    crate::database::until(&mut connection(&trial.url).await, &held).await;
    trial.start_several(1).await;
    postgres.stop(true).await.unwrap();
    pause(4000).await;
    postgres.start_again().await.unwrap();

    // Handled once: neither given to another, nor begun again by its own worker.
    let taken = format!(
        "select count(*) = 0 from pgmq.q_{} where message ->> 'type' = 'job' and read_ct > 1",
        trial.queue
    );

    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(2) {
        assert!(scalar::<bool>(&mut connection(&trial.url).await, &taken).await);
        pause(50).await;
    }
    trial.settle().await;
}
