//! `ezq audit`: who did what, when and why.

use chrono::{DateTime, Utc};
use clap::Subcommand;
use ezq::QueueName;
use ezq::admin::{AuditEntry, EventFilter, EventRef};
use serde::Serialize;

use crate::failure::Failure;
use crate::names;
use crate::output::Row;
use crate::session::{Access, Session};
use crate::text;
use crate::values;

/// The largest page of the library.
const PAGE: usize = 1000;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditVerb {
    /// List the newest entries
    List {
        /// Only what was done in this queue, which may be dropped by now
        #[arg(long, value_name = "QUEUE")]
        queue: Option<String>,
        /// How many to list
        #[arg(long, value_name = "N", default_value = "50", value_parser = values::limit)]
        limit: usize,
    },
}

pub(crate) async fn run(session: &Session, verb: AuditVerb) -> Result<(), Failure> {
    match verb {
        AuditVerb::List { queue, limit } => list(session, queue, limit).await,
    }
}

async fn list(session: &Session, queue: Option<String>, limit: usize) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    // One more than is shown, to know whether there are more.
    let asked = limit.saturating_add(1);
    let mut found: Vec<AuditEntry> = Vec::new();
    let mut after = None;
    while found.len() < asked {
        let room = asked.saturating_sub(found.len()).min(PAGE);
        let mut query = ezq.audit().list().limit(room);
        if let Some(queue) = &queue {
            query = query.queue(queue);
        }
        if let Some(after) = after {
            query = query.after(after);
        }
        let page = query.await?;
        found.extend(page.entries);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    // What was done in a queue outlives it, so a name is wrong only if nothing was done there.
    if let (true, Some(queue)) = (found.is_empty(), queue) {
        names::queue(&ezq, queue).await?;
    }
    ezq.close().await;

    let has_more = found.len() > limit;
    found.truncate(limit);
    let rows: Vec<EntryRow<'_>> = found.iter().map(EntryRow::of).collect();
    session.output.list(&rows, "nothing was done yet")?;
    if has_more {
        session.output.note(text::MORE);
    }
    Ok(())
}

/// An entry, as `--json` prints it.
#[derive(Serialize)]
struct EntryRow<'a> {
    at: DateTime<Utc>,
    by: &'a str,
    reason: Option<&'a str>,
    action: &'static str,
    queue: Option<&'a str>,
    schedule: Option<&'a str>,
    application: Option<&'a str>,
    subject: Option<&'a str>,
    handler: Option<&'a str>,
    target: Option<&'a str>,
    message_id: Option<String>,
    dead_letter_id: Option<String>,
    operation: Option<&'a str>,
    state: Option<String>,
    filter: Option<&'a EventFilter>,
    count: Option<u64>,
    #[serde(skip)]
    thing: Option<String>,
}

impl<'a> EntryRow<'a> {
    fn of(entry: &'a AuditEntry) -> Self {
        let selection = entry.selection.as_ref();
        Self {
            at: entry.at,
            by: &entry.signature.by,
            reason: entry.signature.reason.as_deref(),
            action: entry.action.name(),
            queue: entry.queue.as_ref().map(QueueName::as_str),
            schedule: entry.schedule.as_deref(),
            application: entry.application.as_deref(),
            subject: entry.subject.as_deref(),
            handler: entry.handler.as_ref().map(|name| name.as_str()),
            target: entry.target.as_ref().map(QueueName::as_str),
            message_id: match &entry.event {
                Some(EventRef::Waiting(id)) => Some(id.to_string()),
                _ => None,
            },
            dead_letter_id: match &entry.event {
                Some(EventRef::Dead(id)) => Some(id.to_string()),
                _ => None,
            },
            operation: entry.operation.as_deref(),
            state: selection.map(|(state, _)| state.to_string()),
            filter: selection.map(|(_, filter)| filter),
            count: entry.count,
            thing: entry.thing(),
        }
    }

    /// What it was done to, in words.
    fn what(&self) -> String {
        let mut what = match (&self.message_id, &self.dead_letter_id, self.handler) {
            _ if self.thing.is_some() => self.thing.clone().unwrap_or_default(),
            (Some(id), _, _) => format!("the event {id}"),
            (_, Some(id), _) => format!("the dead letter {id}"),
            (_, _, Some(handler)) => format!("the handler {handler}"),
            _ => match (&self.state, self.count) {
                (Some(state), Some(count)) => format!("{count} {state}"),
                (Some(state), None) => format!("{state} events"),
                (None, Some(count)) => format!("the queue, {count} events"),
                (None, None) => "the queue".to_owned(),
            },
        };
        if let Some(to) = self.target {
            what = format!("{what}, to {to}");
        }
        what
    }
}

impl Row for EntryRow<'_> {
    const COLUMNS: &'static [&'static str] = &["AT", "BY", "ACTION", "QUEUE", "WHAT", "REASON"];

    fn cells(&self) -> Vec<String> {
        vec![
            text::time(self.at),
            self.by.to_owned(),
            self.action.to_owned(),
            self.queue.unwrap_or("-").to_owned(),
            text::shortened(&self.what()).into_owned(),
            self.reason
                .map_or_else(|| "-".to_owned(), |text| text::shortened(text).into_owned()),
        ]
    }
}
