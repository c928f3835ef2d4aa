//! Three processes that work off one queue together: `processes`, against one alone; `partitions`, a queue of
//! eight partitions against one of none. `consume_metrics`: one process with an exporter of the metrics, against
//! one of the same build without.

use std::sync::atomic::Ordering;
use std::time::Instant;

use ezq::QueueName;
use ezq::engine::Engine as _;
use ezq::prelude::*;
use serde_json::json;

use crate::application::{Application, CONCURRENCY};
use crate::case::Case;
use crate::check::check;
#[cfg(feature = "metrics")]
use crate::children::UNMEASURED;
use crate::children::{Child, told_to_go};
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::pairs::{Pairs, Run};
use crate::payload::Payload;
use crate::queues::{Template, drop_queue};

pub(super) const CASE: Case = Case {
    name: "processes",
    about: "three consuming processes on one queue; against one",
    unit: "events/s",
    target: Some(Target::AtLeast(1.0)),
    run: |options, database| Box::pin(run(options, database)),
};

pub(super) const PARTITIONED: Case = Case {
    name: "partitions",
    about: "three consuming processes on a queue of eight partitions; on one without",
    unit: "events/s",
    target: None,
    run: |options, database| Box::pin(run_partitioned(options, database)),
};

#[cfg(feature = "metrics")]
pub(super) const METRICS: Case = Case {
    name: "consume_metrics",
    about: "a backlog, with an exporter of the metrics; against the same build without",
    unit: "events/s",
    target: Some(Target::AtLeast(0.95)),
    run: |options, database| Box::pin(run_measured(options, database)),
};

const EVENTS: usize = 150_000;
const SEVERAL: usize = 3;
const PARTITIONS: u32 = 8;
const KEYS: usize = 1000;
/// One process that works off a queue of one table.
const ONE: Workers = Workers {
    role: "processes",
    processes: 1,
    partitions: 1,
};
const THREE: Workers = Workers {
    processes: SEVERAL,
    ..ONE
};

/// What works off a queue, and in how many partitions the queue is.
#[derive(Debug, Clone, Copy)]
struct Workers {
    role: &'static str,
    processes: usize,
    partitions: u32,
}

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    compare(&CASE, options, database, [THREE, ONE]).await
}

#[cfg(feature = "metrics")]
async fn run_measured(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let unmeasured = Workers {
        role: UNMEASURED,
        ..ONE
    };
    compare(&METRICS, options, database, [ONE, unmeasured]).await
}

async fn compare(
    case: &Case,
    options: &Options,
    database: &Database,
    [workers, reference]: [Workers; 2],
) -> Result<Vec<Outcome>> {
    let application = Application::counting(database.url()).await?;
    let ezq = &application.ezq;
    let events = options.events.unwrap_or(EVENTS);
    let template = Template::plain(ezq, case.name, events).await?;

    let pairs = Pairs::measure(
        case.name,
        options.pairs(),
        |n| work_off(ezq, database, &template, workers, n),
        |n| work_off(ezq, database, &template, reference, n),
    )
    .await?;

    let mut settings = application.close(database, template).await?;
    settings.insert("processes".into(), json!(workers.processes));
    settings.insert("reference_processes".into(), json!(reference.processes));
    Ok(vec![Outcome::of(
        case.measure(),
        Figures::Pairs(pairs),
        settings,
    )])
}

/// With ordering keys: a partitioned queue has the indexes for them in any case.
async fn run_partitioned(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let application = Application::counting(database.url()).await?;
    let ezq = &application.ezq;
    let events = options.events.unwrap_or(EVENTS);
    let mut template = Template::create(ezq, PARTITIONED.name).await?;
    let keyed = (0..events).map(|n| Payload::with_key(n, n % KEYS));
    template.add(ezq, keyed, false).await?;

    let partitioned = Workers {
        partitions: PARTITIONS,
        ..THREE
    };
    let pairs = Pairs::measure(
        PARTITIONED.name,
        options.pairs(),
        |n| work_off(ezq, database, &template, partitioned, n),
        |n| work_off(ezq, database, &template, THREE, n),
    )
    .await?;

    let mut settings = application.close(database, template).await?;
    settings.insert("processes".into(), json!(SEVERAL));
    settings.insert("partitions".into(), json!(PARTITIONS));
    settings.insert("keys".into(), json!(KEYS));
    Ok(vec![Outcome::of(
        PARTITIONED.measure(),
        Figures::Pairs(pairs),
        settings,
    )])
}

async fn work_off(
    ezq: &Ezq,
    database: &Database,
    template: &Template,
    workers: Workers,
    n: usize,
) -> Result<Run> {
    let Workers {
        role,
        processes,
        partitions,
    } = workers;
    let name = format!("bench_{role}_{processes}_{partitions}_{n}");
    let queue = QueueName::new(&name)?;
    ezq.pgmq().ensure_queue(&queue).await?;
    if partitions > 1 {
        ezq.pgmq().partition_queue(&queue, partitions).await?;
    }
    template.copy(ezq, &name).await?;
    let mut children: Vec<Child> = (0..processes)
        .map(|_| Child::start(&format!("{role} {queue}"), database.url()))
        .collect::<Result<_>>()?;
    // Connecting is no part of what is measured.
    for child in &mut children {
        child.answer().await?;
    }

    let started = Instant::now();
    for child in &mut children {
        child.go().await?;
    }
    let mut handled = 0;
    for child in &mut children {
        // In turn is enough: the time ends with the slowest, whichever it is.
        handled += child.answer().await?.parse::<u64>()?;
    }
    let took = started.elapsed();

    for child in children {
        child.end().await?;
    }
    check(
        "the number of events that the processes handled",
        handled,
        template.due,
    )?;
    drop_queue(ezq, &name, 0).await?;
    drop_queue(ezq, &queue.dead_letters(), 0).await?;
    Ok(Run {
        events: template.due,
        took,
    })
}

/// One of the child processes: it prints when it is ready, and how many events it handled.
pub(crate) async fn work(url: &str, queue: &str) -> Result<()> {
    let Application { ezq, handled } = Application::counting(url).await?;
    println!("ready");
    told_to_go().await?;
    ezq.consumer()
        .queue(queue)
        .concurrency(CONCURRENCY)
        .until_idle()
        .run()
        .await?;
    println!("{}", handled.load(Ordering::Relaxed));
    ezq.close().await;
    Ok(())
}
