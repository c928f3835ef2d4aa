//! `restart`: how long events stand still when the database server crashes and is started at once.
//!
//! It takes the time from the order to stop the server until an event that was published afterwards is
//! handled, by a consumer that lived through it. The server is the case's own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ezq::Handler;
use ezq::pgmq::embedded::EmbeddedPostgres;
use serde_json::json;

use crate::application::Application;
use crate::case::Case;
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome};
use crate::payload::Payload;
use crate::progress::bar;
use crate::queues::count;

pub(super) const CASE: Case = Case {
    name: "restart",
    about: "a server's stop, as by a crash, to the first event published and handled after its start",
    unit: "s",
    target: None,
    run: |options, _| Box::pin(run(options)),
};

const BEFORE: usize = 1000;
const QUEUE: &str = "bench_restart";
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(5);

async fn run(options: &Options) -> Result<Vec<Outcome>> {
    let server = EmbeddedPostgres::builder().durable(true).start().await?;
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let handled = Arc::clone(&seen);
    let handler = Handler::on("note", move |event: Payload| {
        handled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(event.n);
        std::future::ready(())
    });
    let seen = |n: usize| {
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&n)
    };
    let Application { ezq, .. } = Application::open(&server.url(), |_| handler).await?;
    let consumer = ezq.consumer().queue(QUEUE).spawn();

    let repetitions = options.pairs();

    let bar = bar(CASE.name, repetitions)?;
    let mut seconds = Vec::new();
    let mut next = 0;
    for _ in 0..repetitions {
        // Some of these are being handled when the server stops.
        let events: Vec<Payload> = (next..next + BEFORE).map(Payload::new).collect();
        next += BEFORE;
        ezq.publish_all(&events).queue(QUEUE).await?;

        let stopped = Instant::now();
        // At once, without a checkpoint: the start has to recover.
        server.stop(true).await?;
        server.start_again().await?;
        // The publisher tries again, as an application would. Its tries belong to the time.
        while ezq.publish(&Payload::new(next)).queue(QUEUE).await.is_err() {
            patient(stopped).await?;
        }
        while !seen(next) {
            patient(stopped).await?;
        }

        seconds.push(stopped.elapsed().as_secs_f64());
        // The next repetition begins with an empty queue.
        while count(&ezq, &format!("pgmq.q_{QUEUE}")).await? > 0 {
            patient(stopped).await?;
        }
        next += 1;
        bar.inc(1);
    }
    bar.finish_and_clear();

    check(
        "the number of events handled",
        (0..next).filter(|n| seen(*n)).count() as u64,
        next,
    )?;

    consumer.stop();
    consumer.await?;
    ezq.close().await;

    let mut settings = Database::open(Some(&server.url()))
        .await?
        .settings()
        .await?;
    settings.insert("events".into(), json!(BEFORE));
    Ok(vec![Outcome::of(
        CASE.measure(),
        Figures::Alone(seconds),
        settings,
    )])
}

async fn patient(since: Instant) -> Result<()> {
    if since.elapsed() > PATIENCE {
        return Err("the events do not flow again".into());
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}
