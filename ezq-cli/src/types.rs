//! `ezq event types`: the types of events that are stored or subscribed to, and who has to do with them.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use ezq::admin::EventState;
use ezq::{Ezq, QueueName};
use serde::Serialize;

use crate::browsing::STATES;
use crate::failure::Failure;
use crate::names;
use crate::output::Row;
use crate::session::{Access, Session};

/// How many events of a queue are looked at in each state.
const LOOKED_AT: usize = 1000;

/// Where types are looked for.
#[derive(Debug, Args)]
pub(crate) struct Types {
    /// Only types of events that are stored in this queue; may be repeated
    #[arg(long = "queue", value_name = "QUEUE")]
    queues: Vec<String>,
}

pub(crate) async fn types(session: &Session, types: Types) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let mut queues = Vec::new();
    for queue in &types.queues {
        queues.push(names::queue(&ezq, queue).await?);
    }
    let mut found = Found::default();
    if queues.is_empty() {
        queues = ezq.queues().names().await?;
        found.subscribed(&ezq).await?;
    }
    for queue in &queues {
        found.stored(&ezq, queue).await?;
    }

    let mut rows = Vec::with_capacity(found.types.len());
    for (event_type, counts) in found.types {
        let parties = ezq.subscriptions()?.parties(&event_type).await?;
        let subscribers = parties.recipients.iter();
        rows.push(TypeRow {
            subscribers: subscribers
                .map(|recipient| recipient.queue.to_string())
                .collect(),
            event_type,
            queues: counts.queues.into_iter().collect(),
            waiting: counts.waiting,
            dead: counts.dead,
            owners: parties.owners,
            publishers: parties.publishers,
        });
    }
    ezq.close().await;

    session.output.list(&rows, "no types of events")?;
    if !found.is_complete {
        session.output.note(format!(
            "only {LOOKED_AT} events of a queue were looked at in each state: there may be more"
        ));
    }
    Ok(())
}

/// What is stored of a type.
#[derive(Default)]
struct Counts {
    queues: BTreeSet<String>,
    waiting: u64,
    dead: u64,
}

struct Found {
    types: BTreeMap<String, Counts>,
    is_complete: bool,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            types: BTreeMap::new(),
            is_complete: true,
        }
    }
}

impl Found {
    /// Types that somebody has subscribed to by their names.
    async fn subscribed(&mut self, ezq: &Ezq) -> Result<(), Failure> {
        for subscription in ezq.subscriptions()?.list().await? {
            let pattern = subscription.pattern.as_str();
            if !pattern.contains(['*', '#']) {
                self.types.entry(pattern.to_owned()).or_default();
            }
        }
        Ok(())
    }

    /// Types of stored events. One whose body cannot be read has none.
    async fn stored(&mut self, ezq: &Ezq, queue: &QueueName) -> Result<(), Failure> {
        for state in STATES {
            let page = ezq.events(queue)?.page(state).limit(LOOKED_AT).await?;
            self.is_complete &= page.next.is_none();
            for event_type in page.events.into_iter().filter_map(|event| event.event_type) {
                let counts = self.types.entry(event_type).or_default();
                counts.queues.insert(queue.to_string());
                match state {
                    EventState::Dead => counts.dead += 1,
                    _ => counts.waiting += 1,
                }
            }
        }
        Ok(())
    }
}

/// A type, as `--json` prints it.
#[derive(Serialize)]
struct TypeRow {
    event_type: String,
    queues: Vec<String>,
    waiting: u64,
    dead: u64,
    owners: Vec<String>,
    publishers: Vec<String>,
    subscribers: Vec<String>,
}

impl Row for TypeRow {
    const COLUMNS: &'static [&'static str] = &[
        "TYPE",
        "IN",
        "WAITING",
        "DEAD",
        "PUBLISHED BY",
        "SUBSCRIBED",
    ];

    fn cells(&self) -> Vec<String> {
        let listed = |names: &[String]| match names.is_empty() {
            true => "-".to_owned(),
            false => names.join(", "),
        };
        vec![
            self.event_type.clone(),
            listed(&self.queues),
            self.waiting.to_string(),
            self.dead.to_string(),
            listed(&self.publishers),
            listed(&self.subscribers),
        ]
    }
}
