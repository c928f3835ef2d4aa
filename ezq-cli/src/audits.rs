//! `ezq audit`: who did what, when and why.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use ezq::admin::{AuditAction, AuditEntry, AuditPage, EventFilter, EventRef, PageCursor};
use ezq::{Ezq, QueueName};
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
    List(List),
}

/// Which entries are listed.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only what was done in this queue, which may be dropped by now
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only what this one did: the name as it is listed
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
    /// Only acts of this kind, such as `pause`
    #[arg(long, value_name = "ACTION")]
    action: Option<AuditAction>,
    /// Only what was done at this time or later; or in this time up to now, such as `2h`
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = values::time)]
    since: Option<DateTime<Utc>>,
    /// Only what was done before this time, or before this long ago
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = values::time)]
    until: Option<DateTime<Utc>>,
    /// How many to list
    #[arg(long, value_name = "N", default_value = "50", value_parser = values::limit)]
    limit: usize,
}

pub(crate) async fn run(session: &Session, verb: AuditVerb) -> Result<(), Failure> {
    match verb {
        AuditVerb::List(asked) => asked.run(session).await,
    }
}

impl List {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let ezq = session.connect(Access::Read).await?;
        // One more than is shown, to know whether there are more.
        let mut found = self.entries(&ezq, self.limit.saturating_add(1)).await?;
        // What was done in a queue outlives it, so a name is wrong only if nothing was done there.
        if let (true, Some(queue)) = (found.is_empty(), &self.queue) {
            names::queue(&ezq, queue).await?;
        }
        ezq.close().await;

        let has_more = found.len() > self.limit;
        found.truncate(self.limit);
        let rows: Vec<EntryRow<'_>> = found.iter().map(EntryRow::of).collect();
        let is_filtered = self.by.is_some()
            || self.action.is_some()
            || self.since.is_some()
            || self.until.is_some();
        let hint = match is_filtered {
            true => "no entry fits the filter",
            false => "nothing was done yet",
        };
        session.output.list(&rows, hint)?;
        if has_more {
            session.output.note(text::MORE);
        }
        Ok(())
    }

    /// So many of the newest entries, page by page.
    async fn entries(&self, ezq: &Ezq, asked: usize) -> Result<Vec<AuditEntry>, Failure> {
        let mut found: Vec<AuditEntry> = Vec::new();
        let mut after = None;
        while found.len() < asked {
            let room = asked.saturating_sub(found.len()).min(PAGE);
            let page = self.page(ezq, room, after).await?;
            found.extend(page.entries);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(found)
    }

    async fn page(
        &self,
        ezq: &Ezq,
        limit: usize,
        after: Option<PageCursor>,
    ) -> Result<AuditPage, Failure> {
        let mut query = ezq.audit().list().limit(limit);
        if let Some(queue) = &self.queue {
            query = query.queue(queue);
        }
        if let Some(who) = &self.by {
            query = query.by(who);
        }
        if let Some(action) = self.action {
            query = query.action(action);
        }
        if let Some(since) = self.since {
            query = query.since(since);
        }
        if let Some(until) = self.until {
            query = query.until(until);
        }
        if let Some(after) = after {
            query = query.after(after);
        }
        Ok(query.await?)
    }
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
