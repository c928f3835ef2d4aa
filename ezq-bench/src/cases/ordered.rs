//! `ordered_many` and `ordered_hot`: the cost of ordering keys. The events have 1,000 keys, or half of
//! them have one hot key and the others 1,000. The reference is ezq's own `consume` of as many events
//! without keys. Every run checks that each key was handled in its order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ezq::Handler;
use serde_json::json;

use crate::application::{Application, Job};
use crate::case::Case;
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::pairs::Pairs;
use crate::payload::Payload;
use crate::queues::Template;

pub(super) const MANY: Case = Case {
    name: "ordered_many",
    about: "events in 1,000 ordering keys; against itself without keys",
    unit: "events/s",
    target: Some(Target::AtLeast(0.5)),
    run: |options, database| Box::pin(run(&MANY, options, database, |n| n % KEYS)),
};

pub(super) const HOT: Case = Case {
    name: "ordered_hot",
    about: "half of the events in one key, the others in 1,000; against itself without keys",
    unit: "events/s",
    target: Some(Target::AtLeast(0.5)),
    run: |options, database| Box::pin(run(&HOT, options, database, hot)),
};

const EVENTS: usize = 100_000;
const KEYS: usize = 1000;

fn hot(n: usize) -> usize {
    if n.is_multiple_of(2) {
        KEYS
    } else {
        n / 2 % KEYS
    }
}

/// The newest event that was seen of each key, and the number of events that came too late.
#[derive(Debug)]
struct Order {
    newest: Vec<AtomicUsize>,
    wrong: AtomicU64,
}

impl Order {
    fn note(&self, key: usize, n: usize) {
        // One more than the number, since zero means that none was seen yet.
        if self.newest[key].fetch_max(n + 1, Ordering::Relaxed) > n {
            self.wrong.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn reset(&self) {
        self.newest
            .iter()
            .for_each(|newest| newest.store(0, Ordering::Relaxed));
    }
}

async fn run(
    case: &Case,
    options: &Options,
    database: &Database,
    key: fn(usize) -> usize,
) -> Result<Vec<Outcome>> {
    let order = Arc::new(Order {
        newest: (0..=KEYS).map(|_| AtomicUsize::new(0)).collect(),
        wrong: AtomicU64::new(0),
    });
    let seen = Arc::clone(&order);
    let ordered = Application::open(database.url(), |counter| {
        Handler::on("noop", move |event: Payload| {
            seen.note(key(event.n), event.n);
            counter.fetch_add(1, Ordering::Relaxed);
            std::future::ready(())
        })
    })
    .await?;
    let plain = Application::counting(database.url()).await?;

    let events = options.events.unwrap_or(EVENTS);
    let mut keyed = Template::create(&ordered.ezq, "keyed").await?;
    keyed
        .add(
            &ordered.ezq,
            (0..events).map(|n| Payload::with_key(n, key(n))),
            false,
        )
        .await?;
    let template = Template::plain(&plain.ezq, case.name, events).await?;

    let pairs = Pairs::measure(
        case.name,
        options.pairs(),
        |n| {
            order.reset();
            ordered.work_off(&keyed, Job::new(case.name, "ezq", n))
        },
        |n| plain.work_off(&template, Job::new(case.name, "plain", n)),
    )
    .await?;

    check(
        "the number of events out of order",
        order.wrong.load(Ordering::Relaxed),
        0,
    )?;

    keyed.drop(&ordered.ezq).await?;
    ordered.ezq.close().await;

    let mut settings = plain.close(database, template).await?;
    settings.insert("keys".into(), json!(KEYS));
    Ok(vec![Outcome::of(
        case.measure(),
        Figures::Pairs(pairs),
        settings,
    )])
}
