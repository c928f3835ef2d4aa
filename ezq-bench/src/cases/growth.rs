//! `grow_queued`, `grow_handlers` and `grow_queues`: how the cost of an event grows with the events that
//! wait in its queue, with the handlers of an application, and with the queues that one process consumes.
//! Each point is one line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ezq::engine::{Engine as _, LeaseRequest};
use ezq::prelude::*;
use ezq::{Handler, QueueName};
use serde_json::json;

use crate::application::{Application, CONCURRENCY, Job};
use crate::case::Case;
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Measure, Outcome};
use crate::payload::Payload;
use crate::progress::bar;
use crate::queues::{Template, drop_queue};

pub(super) const QUEUED: Case = Case {
    name: "grow_queued",
    about: "from 1,000 to 1,000,000 queued: events a second, and the time of a claim of 100",
    unit: "events/s",
    target: None,
    run: |options, database| Box::pin(queued(options, database)),
};

pub(super) const HANDLERS: Case = Case {
    name: "grow_handlers",
    about: "from 1 to 256 handlers of one event, each of which runs for each event",
    unit: "events/s",
    target: None,
    run: |options, database| Box::pin(handlers(options, database)),
};

pub(super) const QUEUES: Case = Case {
    name: "grow_queues",
    about: "from 1 to 50 queues in one process, with the same number of events in all",
    unit: "events/s",
    target: None,
    run: |options, database| Box::pin(queues(options, database)),
};

const REPETITIONS: usize = 3;
const CLAIM: usize = 100;
const CLAIMS: usize = 10;

async fn queued(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let most = options.events.unwrap_or(1_000_000);
    let mut sizes = [1000, 10_000, 100_000, 1_000_000]
        .map(|size: usize| size.min(most))
        .to_vec();
    // With few events (`--events`), several sizes are cut to the same one.
    sizes.dedup();
    let repetitions = options.repetitions(REPETITIONS);
    let application = Application::counting(database.url()).await?;
    let ezq = &application.ezq;
    let mut template = Template::create(ezq, QUEUED.name).await?;

    let bar = bar(QUEUED.name, sizes.len() * repetitions)?;
    let mut points = Vec::new();
    for size in sizes {
        template
            .add(ezq, (template.due..size).map(Payload::new), false)
            .await?;
        let mut rates = Vec::new();
        let mut claims = Vec::new();
        for n in 0..repetitions {
            claims.push(claim(ezq, &template, n).await?);
            let job = Job::new(QUEUED.name, &size.to_string(), n);
            rates.push(application.work_off(&template, job).await?.rate()?);
            bar.inc(1);
        }
        points.push((size, rates, claims));
    }
    bar.finish_and_clear();

    let mut settings = application.close(database, template).await?;
    // Each point has a number of its own.
    settings.remove("events");
    let outcomes = points.into_iter().flat_map(|(size, rates, claims)| {
        let claim = Measure {
            name: "grow_queued_claim",
            unit: "us",
            target: None,
        };
        let claims = Outcome::of(claim, Figures::Alone(claims), settings.clone());
        let rates = Outcome::of(QUEUED.measure(), Figures::Alone(rates), settings.clone());
        [rates.at("queued", size), claims.at("queued", size)]
    });
    Ok(outcomes.collect())
}

/// The mean time of a claim in microseconds.
async fn claim(ezq: &Ezq, template: &Template, n: usize) -> Result<f64> {
    let name = format!("bench_claim_{}_{n}", template.due);
    let queue = QueueName::new(&name)?;
    ezq.pgmq().ensure_queue(&queue).await?;
    template.copy(ezq, &name).await?;
    let lease = || {
        ezq.pgmq()
            .lease(LeaseRequest::new(queue.clone(), CLAIM, Duration::from_secs(600)).keys(CLAIM))
    };
    // The first claim plans the statement, and is not measured.
    let mut claimed = lease().await?.deliveries.len();

    let started = Instant::now();
    for _ in 1..CLAIMS {
        claimed += lease().await?.deliveries.len();
    }
    let took = started.elapsed();

    check(
        "the number of messages claimed",
        claimed as u64,
        template.due.min(CLAIM * CLAIMS),
    )?;
    ezq.purge(&queue).await?;
    drop_queue(ezq, &name, 0).await?;
    drop_queue(ezq, &queue.dead_letters(), 0).await?;
    Ok(took.as_secs_f64() * 1e6 / (CLAIMS - 1) as f64)
}

async fn handlers(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let events = options.events.unwrap_or(10_000);
    let repetitions = options.repetitions(REPETITIONS);
    let counts = [1, 4, 16, 64, 256];

    let bar = bar(HANDLERS.name, counts.len() * repetitions)?;
    let mut outcomes = Vec::new();
    for count in counts {
        let handled = Arc::new(AtomicU64::new(0));
        let mut builder = Ezq::builder()
            .database_url(database.url())
            .without_discovered_handlers();
        for n in 0..count {
            let counter = Arc::clone(&handled);
            builder = builder.register(Handler::on(&format!("noop{n}"), move |_: Payload| {
                // The whole event counts once all of its handlers have run.
                counter.fetch_add(1, Ordering::Relaxed);
                std::future::ready(())
            }));
        }
        let application = Application {
            ezq: builder.connect().await?,
            handled,
        };

        let template = Template::plain(&application.ezq, HANDLERS.name, events).await?;
        let mut rates = Vec::new();
        for n in 0..repetitions {
            let job = Job::new(HANDLERS.name, &count.to_string(), n);
            rates.push(
                application
                    .work_off_by(&template, job, count)
                    .await?
                    .rate()?,
            );
            bar.inc(1);
        }

        let settings = application.close(database, template).await?;
        let outcome = Outcome::of(HANDLERS.measure(), Figures::Alone(rates), settings);
        outcomes.push(outcome.at("handlers", count));
    }
    bar.finish_and_clear();
    Ok(outcomes)
}

async fn queues(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let events = options.events.unwrap_or(50_000);
    let repetitions = options.repetitions(REPETITIONS);
    let counts = [1, 2, 5, 10, 20, 50];

    let bar = bar(QUEUES.name, counts.len() * repetitions)?;
    let application = Application::counting(database.url()).await?;
    let mut outcomes = Vec::new();
    for count in counts {
        // The same number in all, so that only the number of queues grows.
        let each = events.div_ceil(count);
        let template = Template::plain(&application.ezq, QUEUES.name, each).await?;
        let mut rates = Vec::new();
        for n in 0..repetitions {
            rates.push(work_off_all(&application, &template, count, n).await?);
            bar.inc(1);
        }

        let mut settings = database.settings().await?;
        settings.insert("events".into(), json!(each * count));
        settings.insert("concurrency".into(), json!(CONCURRENCY));
        template.drop(&application.ezq).await?;
        let outcome = Outcome::of(QUEUES.measure(), Figures::Alone(rates), settings);
        outcomes.push(outcome.at("queues", count));
    }
    bar.finish_and_clear();

    application.ezq.close().await;
    Ok(outcomes)
}

/// Works off several queues at once. Returns the events a second of all together.
async fn work_off_all(
    application: &Application,
    template: &Template,
    count: usize,
    n: usize,
) -> Result<f64> {
    let ezq = &application.ezq;
    let mut queues = Vec::new();
    for queue in 0..count {
        let queue = QueueName::new(&format!("bench_grow_{count}_{n}_{queue}"))?;
        ezq.pgmq().ensure_queue(&queue).await?;
        template.copy(ezq, queue.as_str()).await?;
        queues.push(queue);
    }

    let started = Instant::now();
    let consumers: Vec<_> = queues
        .iter()
        .map(|queue| {
            ezq.consumer()
                .queue(queue)
                .concurrency(CONCURRENCY)
                .until_idle()
                .spawn()
        })
        .collect();
    for consumer in consumers {
        let handled = consumer.await?.counts.handled;
        check("the number of events of a queue", handled, template.due)?;
    }
    let took = started.elapsed();

    for queue in queues {
        drop_queue(ezq, queue.as_str(), 0).await?;
        drop_queue(ezq, &queue.dead_letters(), 0).await?;
    }
    Ok((template.due * count) as f64 / took.as_secs_f64())
}
