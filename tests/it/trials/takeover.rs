//! Trials of takeover: what a killed worker held is handled by another within seconds, long before its lease
//! ends; what a living one holds stays with it.

use std::time::{Duration, Instant};

use ezq::pgmq::embedded::EmbeddedPostgres;

use super::worker::Plan;
use super::{Trial, pause};
use crate::child::Process;
use crate::database::{connection, run, scalar, server, until};
use crate::proxy::{Mode, Proxy};

/// So long that nothing below is done because a lease ended.
const LEASE: Duration = Duration::from_secs(120);
/// Many times what a takeover takes, for a slow machine; still far from the lease.
const SOON: Duration = Duration::from_secs(40);

/// Events that one worker holds until it is told otherwise.
async fn held_by_one(url: &str, worker_url: &str, events: i64, lease: Duration) -> Trial {
    let mut trial = Trial::new(url, events).await;
    trial.plan = Plan {
        lease,
        concurrency: 10,
        pool: 10,
        takes: Duration::from_secs(3600),
        ..trial.plan
    };
    trial.start(worker_url).await;

    let held = format!(
        "select count(*) = {events} from pgmq.q_{} where read_ct = 1 and vt > now()",
        trial.queue
    );
    until(&mut connection(&trial.url).await, &held).await;
    trial.plan.takes = Duration::ZERO;
    trial
}

/// The most deliveries of an event.
async fn deliveries(trial: &Trial) -> i32 {
    let most = format!(
        "select coalesce(max(read_ct), 0) from pgmq.q_{} where message ->> 'type' = 'job'",
        trial.queue
    );
    scalar(&mut connection(&trial.url).await, &most).await
}

async fn nothing_is_taken_over(trial: &Trial, time: Duration) {
    let since = Instant::now();
    while since.elapsed() < time {
        assert_eq!(deliveries(trial).await, 1, "after {:?}", since.elapsed());
        pause(50).await;
    }
}

#[tokio::test]
async fn running_events_of_a_killed_worker_are_taken_over_long_before_their_lease_ends() {
    let url = server().await.url();
    // By one that idled beside it, and by one that starts after its death.
    for is_there in [true, false] {
        let mut trial = held_by_one(&url, &url, 10, LEASE).await;
        if is_there {
            trial.start_several(1).await;
        }

        trial.workers[0].kill().await;
        let began = Instant::now();
        trial.workers.remove(0);
        if !is_there {
            trial.start_several(1).await;
        }

        trial.work_off().await;
        let took = began.elapsed();
        println!("all taken over and done after {took:.1?}");
        assert!(took < SOON, "{took:?}");
        trial.settle().await;
    }
}

#[tokio::test]
async fn a_worker_that_is_stopped_for_a_while_keeps_its_events() {
    let url = server().await.url();
    let mut trial = held_by_one(&url, &url, 5, Duration::from_secs(12)).await;
    trial.start_several(1).await;

    trial.workers[0].signal("STOP").await;
    nothing_is_taken_over(&trial, Duration::from_secs(5)).await;
    trial.workers[0].signal("CONT").await;
    // It goes on: beyond the end of the leases that it had, for it renews them.
    nothing_is_taken_over(&trial, Duration::from_secs(8)).await;

    trial.workers[0].kill().await;
    trial.workers.remove(0);
    trial.settle().await;
}

#[tokio::test]
async fn connections_that_are_cut_or_stalled_for_a_while_cost_no_worker_its_events() {
    let url = server().await.url();
    let (proxy, proxied) = Proxy::before(&url);
    let mut trial = held_by_one(&url, &proxied, 5, LEASE).await;
    trial.start_several(1).await;

    for _ in 0..3 {
        proxy.cut();
        nothing_is_taken_over(&trial, Duration::from_secs(3)).await;
    }
    proxy.set(Mode::Stall);
    nothing_is_taken_over(&trial, Duration::from_secs(5)).await;
    proxy.set(Mode::Pass);
    nothing_is_taken_over(&trial, Duration::from_secs(2)).await;

    trial.workers[0].kill().await;
    trial.workers.remove(0);
    trial.settle().await;
}

#[tokio::test]
async fn a_worker_whose_connections_are_half_open_keeps_its_events_until_their_lease_ends() {
    let url = server().await.url();
    let (proxy, proxied) = Proxy::before(&url);
    let lease = Duration::from_secs(8);
    let mut trial = held_by_one(&url, &proxied, 5, lease).await;
    trial.start_several(1).await;

    // The server's side stays open: nobody can tell that the worker is cut off.
    proxy.set(Mode::Swallow);
    nothing_is_taken_over(&trial, lease / 2 - Duration::from_millis(500)).await;
    trial.work_off().await;
    trial.workers[0].kill().await;
    trial.workers.remove(0);
    trial.settle().await;
}

#[tokio::test]
async fn after_a_restart_of_the_server_every_worker_keeps_its_events() {
    let postgres = EmbeddedPostgres::builder().start().await.unwrap();
    let url = postgres.url();
    let mut trial = held_by_one(&url, &url, 5, Duration::from_secs(16)).await;
    trial.start_several(1).await;

    for is_kind in [true, false] {
        postgres.stop(is_kind).await.unwrap();
        pause(500).await;
        postgres.start_again().await.unwrap();
        nothing_is_taken_over(&trial, Duration::from_secs(4)).await;
    }

    trial.workers[0].kill().await;
    trial.workers.remove(0);
    trial.settle().await;
}

#[tokio::test]
async fn of_fifty_workers_many_are_killed_and_the_others_take_over() {
    let postgres = EmbeddedPostgres::builder()
        .setting("max_connections", "700")
        .start()
        .await
        .unwrap();
    let mut trial = Trial::new(&postgres.url(), 600).await;
    trial.plan.lease = LEASE;
    trial.plan.pool = 2;
    trial.plan.concurrency = 2;
    trial.plan.takes = Duration::from_millis(200);
    for _ in 0..50 {
        let role = trial.role();
        trial.workers.push(Process::start(&trial.url, &role));
    }
    for worker in &mut trial.workers {
        worker.hear("ready").await;
    }

    let began = Instant::now();
    for _ in 0..20 {
        trial.workers[0].kill().await;
        trial.workers.remove(0);
    }
    assert!(
        trial.left().await > 0,
        "the work was over before the last kill"
    );
    trial.work_off().await;
    println!("done {:.1?} after the first kill", began.elapsed());
    assert!(began.elapsed() < LEASE);
    trial.settle().await;
}

#[tokio::test]
async fn where_the_table_cannot_be_used_the_lease_is_the_bound() {
    let postgres = EmbeddedPostgres::builder().start().await.unwrap();
    let url = postgres.url();
    let mut trial = held_by_one(&url, &url, 3, Duration::from_secs(4)).await;
    let mut own = connection(&url).await;
    run(
        &mut own,
        "alter table ezq.holders rename column missed_at to other",
    )
    .await;
    trial.start_several(1).await;

    trial.workers[0].kill().await;
    trial.workers.remove(0);
    trial.settle().await;
}
