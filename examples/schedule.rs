//! Work at set times, in two workers at once: `cargo run --example schedule`.
//!
//! Several workers with the same schedules do the work of a tick once, without a leader or a cron daemon.
//!
//! What to see: each tick goes to one worker, though both have the schedules. A paused schedule does not
//! tick, but runs by hand. With `-- --wait` the example works until you press Ctrl-C; start it twice with
//! one `DATABASE_URL` to see more workers. It needs no database: without `DATABASE_URL` it starts one.

use std::error::Error;
use std::time::Duration;

use ezq::ConsumerHandle;
use ezq::prelude::*;
use ezq::schedule::Missed;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::timeout;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A worker's number, and the channel on which it tells what it did.
#[derive(Clone)]
struct Worker(u32, UnboundedSender<&'static str>);

impl Worker {
    fn did(&self, what: &'static str) {
        println!("    worker {}: {what}", self.0);
        // The receiver is gone once the program ends.
        let _ = self.1.send(what);
    }
}

#[on_schedule(every = "1s", name = "example.sweep", queue = "schedule_example")]
async fn sweep(tick: Tick, State(worker): State<Worker>) {
    let since = tick
        .previous
        .map_or(0, |previous| (tick.due - previous).num_seconds());
    println!(
        "    the tick of {}, {since} s after the one before",
        tick.due.format("%H:%M:%S")
    );
    worker.did("swept");
}

#[on_schedule(
    "0 9 * * MON",
    tz = "Europe/Paris",
    missed = "skip",
    name = "example.report",
    queue = "schedule_example"
)]
async fn weekly_report(State(worker): State<Worker>) {
    worker.did("wrote the weekly report");
}

/// An event like any other. A schedule publishes it here; any program may.
#[derive(Event, Serialize, Deserialize)]
#[event(type = "invoices.due", queue = "schedule_example")]
struct InvoicesDue {
    region: String,
}

#[on_event(queue = "schedule_example")]
async fn send_invoices(event: InvoicesDue, State(worker): State<Worker>) {
    println!("    the invoices of {} are due", event.region);
    worker.did("sent invoices");
}

async fn start(number: u32, done: &UnboundedSender<&'static str>) -> Result<(Ezq, ConsumerHandle)> {
    let first_of_month = Schedule::cron("0 6 1 * *")
        .tz("Europe/Paris")
        .missed(Missed::FireOnce);
    let ezq = Ezq::builder()
        .state(Worker(number, done.clone()))
        .schedule(
            "example.invoices",
            first_of_month,
            &InvoicesDue {
                region: "north".into(),
            },
        )
        .connect()
        .await?;
    let consumer = ezq
        .consumer()
        .queue("schedule_example")
        .stop_on_signals()
        .spawn();
    Ok((ezq, consumer))
}

#[tokio::main]
async fn main() -> Result<()> {
    let waits = std::env::args()
        .nth(1)
        .is_some_and(|argument| argument == "--wait");
    let (done, mut did) = unbounded_channel();
    let (ezq, first) = start(1, &done).await?;
    let (_other, second) = start(2, &done).await?;

    println!("\ntwo workers: each tick comes to one of them");
    for _ in 0..3 {
        timeout(Duration::from_secs(60), did.recv()).await?;
    }

    let schedules = ezq.schedules()?;
    println!("\nwhat comes next");
    for schedule in schedules.list().await? {
        let next = schedule
            .next_at
            .map_or("never".into(), |at| at.format("%F %T UTC").to_string());
        println!("    {:<17} {next}: {}", schedule.name, schedule.definition);
    }

    println!("\npaused, and run by hand");
    schedules.pause("example.sweep").await?;
    schedules.run_now("example.invoices").await?;
    while timeout(Duration::from_secs(60), did.recv()).await? != Some("sent invoices") {}

    if waits {
        println!("\nthe sweep goes on: press Ctrl-C to stop");
        schedules.resume("example.sweep").await?;
    } else {
        first.stop();
        second.stop();
    }
    println!("\n{}\n{}", first.await?, second.await?);
    schedules.resume("example.sweep").await?;
    Ok(())
}
