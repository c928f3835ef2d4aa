//! `idle`: how many statements a consumer sends while it has nothing to do. It is woken by events.
//!
//! They are counted on a server on which nothing else runs.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::application::Application;
use crate::case::Case;
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::payload::Payload;
use crate::progress::bar;
use crate::statements::{CountingServer, count_statements, counting_server};

pub(super) const CASE: Case = Case {
    name: "idle",
    about: "statements of an idle consumer that is woken, counted by pg_stat_statements",
    unit: "statements/s",
    target: Some(Target::AtMost(1.0)),
    run: |options, _| Box::pin(run(options)),
};

const WINDOW: Duration = Duration::from_secs(6);
const QUEUE: &str = "bench_idle";

async fn run(options: &Options) -> Result<Vec<Outcome>> {
    let CountingServer {
        server,
        mut observer,
    } = counting_server().await?;
    let application = Application::counting(&server.url()).await?;
    let other = Application::counting(&server.url()).await?;
    let consumer = application.ezq.consumer().queue(QUEUE).spawn();

    let mut published = 0;
    let mut wake = async || -> Result<()> {
        other.ezq.publish(&Payload::new(0)).queue(QUEUE).await?;
        published += 1;
        let started = Instant::now();
        while consumer.counts().handled < published {
            if started.elapsed() > Duration::from_secs(60) {
                return Err("the consumer does not wake up".into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    // The first event creates the queue, prepares statements and begins to listen.
    wake().await?;
    // After an event the consumer polls at shorter intervals for a while. That is over by then.
    tokio::time::sleep(WINDOW).await;

    let repetitions = options.pairs();

    let bar = bar(CASE.name, repetitions)?;
    let mut rates = Vec::new();
    for _ in 0..repetitions {
        let before = count_statements(&mut observer).await?;
        let started = Instant::now();
        tokio::time::sleep(WINDOW).await;
        let after = count_statements(&mut observer).await?;
        let seconds = started.elapsed().as_secs_f64();
        rates.push((after - before) as f64 / seconds);
        bar.inc(1);
    }
    bar.finish_and_clear();

    wake().await?;
    consumer.stop();
    check(
        "the number of events handled",
        consumer.await?.counts.handled,
        2,
    )?;

    application.ezq.close().await;
    other.ezq.close().await;

    let mut settings = Database::open(Some(&server.url()))
        .await?
        .settings()
        .await?;
    settings.insert("window_s".into(), json!(WINDOW.as_secs()));
    settings.insert("counted_by".into(), json!("pg_stat_statements"));
    Ok(vec![Outcome::of(
        CASE.measure(),
        Figures::Alone(rates),
        settings,
    )])
}
