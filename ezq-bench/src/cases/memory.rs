//! `memory`: the resident size of a process that does nothing but work off a backlog: at a tenth of the
//! backlog, at its end, and at most.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ezq::QueueName;
use ezq::engine::Engine as _;

use crate::application::{Application, CONCURRENCY};
use crate::case::Case;
use crate::check::check;
use crate::children::Child;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::progress::bar;
use crate::queues::{Template, drop_queue};

pub(super) const CASE: Case = Case {
    name: "memory",
    about: "resident size of a process that works off 1,000,000: growth from a tenth on, most",
    unit: "MB",
    target: Some(Target::AtMost(64.0)),
    run: |options, database| Box::pin(run(options, database)),
};

const EVENTS: usize = 1_000_000;
const REPETITIONS: usize = 3;
const SAMPLE: Duration = Duration::from_millis(5);

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let application = Application::counting(database.url()).await?;
    let ezq = &application.ezq;
    let events = options.events.unwrap_or(EVENTS);
    let template = Template::plain(ezq, CASE.name, events).await?;
    let repetitions = options.repetitions(REPETITIONS);

    let bar = bar(CASE.name, repetitions)?;
    let mut grown = Vec::new();
    let mut most = Vec::new();
    for n in 0..repetitions {
        let name = format!("bench_memory_{n}");
        let queue = QueueName::new(&name)?;
        ezq.pgmq().ensure_queue(&queue).await?;
        template.copy(ezq, &name).await?;

        // A process of its own: the template and its client are not to be counted.
        let mut child = Child::start(&format!("memory {queue} {events}"), database.url())?;
        let answer = child.answer().await?;
        child.end().await?;

        let numbers: Vec<u64> = answer
            .split(' ')
            .map(|word| Ok(word.parse()?))
            .collect::<Result<_>>()?;
        let [handled, tenth, end, highest] = numbers[..] else {
            return Err(format!("`{answer}` is no answer").into());
        };
        check(
            "the number of events that the process handled",
            handled,
            events,
        )?;

        grown.push((end as f64 - tenth as f64) / 1024.0);
        most.push(highest as f64 / 1024.0);
        drop_queue(ezq, &name, 0).await?;
        drop_queue(ezq, &queue.dead_letters(), 0).await?;
        bar.inc(1);
    }
    bar.finish_and_clear();

    let settings = application.close(database, template).await?;
    let part = |name, values, most| {
        Outcome::of(CASE.measure(), Figures::Alone(values), settings.clone())
            .part(name, Some(Target::AtMost(most)))
    };
    Ok(vec![
        part("memory_growth", grown, 8.0),
        part("memory_most", most, 64.0),
    ])
}

/// The child process: it works the queue off, and prints the number of events and its sizes in kB.
pub(crate) async fn work(url: &str, queue: &str, events: &str) -> Result<()> {
    let Application { ezq, handled } = Application::counting(url).await?;
    let tenth = events.parse::<u64>()? / 10;
    let consumer = ezq
        .consumer()
        .queue(queue)
        .concurrency(CONCURRENCY)
        .until_idle()
        .spawn();

    let mut at_tenth = None;
    let mut most = 0;
    while consumer.is_running() {
        let size = resident()?;
        most = most.max(size);
        // By then every buffer and pool has its size. What grows from here on is a leak.
        if at_tenth.is_none() && handled.load(Ordering::Relaxed) >= tenth {
            at_tenth = Some(size);
        }
        tokio::time::sleep(SAMPLE).await;
    }

    let end = resident()?;
    let handled = consumer.await?.counts.handled;
    println!(
        "{handled} {} {end} {}",
        at_tenth.unwrap_or(end),
        most.max(end)
    );
    ezq.close().await;
    Ok(())
}

/// The resident size of this process in kB.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let size = line.and_then(|line| line.split_whitespace().next());
    Ok(size
        .ok_or("this system does not tell the size of a process")?
        .parse()?)
}
