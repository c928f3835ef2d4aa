//! `ezq dlq`: the dead letters of a queue, listed, redriven and discarded.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use ezq::admin::{DeadLetterFilter, EventAction, EventFilter, EventRef, EventState};
use ezq::message::{MessageId, ReasonKind};
use ezq::{Ezq, QueueName};
use serde_json::json;

use crate::bulk::Bulk;
use crate::confirmation::confirm;
use crate::failure::Failure;
use crate::letters::{Letter, WholeLetter};
use crate::names;
use crate::progress::Progress;
use crate::session::{Access, Session};
use crate::signed::{Signed, signed};
use crate::text;
use crate::values;

/// How many dead letters an export holds in memory.
const PAGE: usize = 100;

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetterVerb {
    /// List the oldest dead letters of a queue
    List {
        /// The queue in which they died
        queue: String,
        #[command(flatten)]
        filter: Filter,
        /// How many to list
        #[arg(long, value_name = "N", default_value = "50", value_parser = values::limit)]
        limit: usize,
    },

    /// Show one dead letter with its headers and body
    Show {
        /// The queue in which it died
        queue: String,
        /// Its id, as `list` shows it
        id: i64,
    },

    /// Move dead letters back to their queue. Handlers that were done stay done
    Redrive {
        #[command(flatten)]
        selection: Selection,
    },

    /// Delete dead letters
    Discard {
        #[command(flatten)]
        selection: Selection,
    },

    /// Print dead letters with headers and bodies, as one JSON object on each line
    Export {
        /// The queue in which they died
        queue: String,
        #[command(flatten)]
        filter: Filter,
    },
}

/// Conditions on dead letters. Those that meet every one are selected.
#[derive(Debug, Args)]
#[command(next_help_heading = "Filter")]
pub(crate) struct Filter {
    /// Only those that this handler gave up
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only those that died for this reason, such as `max_attempts`
    #[arg(long, value_name = "REASON", value_parser = values::reason)]
    died_of: Option<ReasonKind>,
    /// Only those that died at this time or later: `2026-01-31T12:00:00Z`, or `2h` for two hours ago
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = values::time)]
    since: Option<DateTime<Utc>>,
    /// Only those that died before this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = values::time)]
    until: Option<DateTime<Utc>>,
}

/// Which dead letters are changed: by their ids, by a filter, or all of a queue.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// The queue in which they died
    queue: String,
    /// Their ids, as `list` shows them
    #[arg(value_name = "ID")]
    ids: Vec<i64>,
    /// All of the queue
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// How many a second at most, on average
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    #[command(flatten)]
    signed: Signed,
    #[command(flatten)]
    filter: Filter,
}

pub(crate) async fn run(session: &Session, verb: DeadLetterVerb) -> Result<(), Failure> {
    match verb {
        DeadLetterVerb::List {
            queue,
            filter,
            limit,
        } => list(session, &queue, filter, limit).await,
        DeadLetterVerb::Show { queue, id } => show(session, &queue, id).await,
        DeadLetterVerb::Redrive { selection } => selection.act(session, EventAction::Redrive).await,
        DeadLetterVerb::Discard { selection } => selection.act(session, EventAction::Discard).await,
        DeadLetterVerb::Export { queue, filter } => export(session, &queue, filter).await,
    }
}

async fn list(session: &Session, queue: &str, filter: Filter, limit: usize) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let queue = names::queue(&ezq, queue).await?;
    // One more than is shown, to know whether there are more.
    let asked = limit.saturating_add(1);
    let mut found = ezq
        .dead_letters(&queue)?
        .list(&filter.build(), asked)
        .await?;

    let has_more = found.len() > limit;
    found.truncate(limit);
    let rows: Vec<Letter<'_>> = found
        .iter()
        .map(|letter| Letter::of(queue.as_str(), letter))
        .collect();
    session.output.list(&rows, "no dead letters")?;
    if has_more {
        session.output.note(text::MORE);
    }
    ezq.close().await;
    Ok(())
}

async fn show(session: &Session, queue: &str, id: i64) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let queue = names::queue(&ezq, queue).await?;
    // Of a number alone, the newest message that had it is meant.
    let letter = ezq
        .dead_letters(&queue)?
        .get(&MessageId::Number(id))
        .await?
        .ok_or_else(|| {
            Failure::not_found(format!("the queue `{queue}` has no dead letter {id}"))
        })?;

    let whole = WholeLetter::of(queue.as_str(), &letter);
    session.output.show(&whole, &whole.fields())?;
    ezq.close().await;
    Ok(())
}

/// Prints page after page, so that it takes the same memory whatever there is.
async fn export(session: &Session, queue: &str, filter: Filter) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let queue = names::queue(&ezq, queue).await?;
    let letters = ezq.dead_letters(&queue)?;
    // Counts stop at 10,000: beyond, the bar has no end. With a filter nobody knows how many there are.
    let dead = ezq.queues().get(&queue).await?.dead;
    let total = (filter.is_empty() && !dead.is_capped).then_some(dead.value);
    let bar = Progress::new(session.output, total, "exporting");

    let filter = filter.build();
    let mut after = None;
    let mut count = 0;
    loop {
        let page = letters.list_after(after.as_ref(), &filter, PAGE).await;
        // What is printed by now must not look like all of it.
        let page = page.map_err(|error| {
            let error = Failure::from(error);
            Failure::error(format!("only {count} dead letters are exported: {error}"))
        })?;
        let rows: Vec<WholeLetter<'_>> = page
            .iter()
            .map(|letter| WholeLetter::of(queue.as_str(), letter))
            .collect();
        session.output.lines(&rows)?;
        count += u64::try_from(page.len()).unwrap_or(0);
        bar.at(count);
        // A page that is not full is the last.
        if page.len() < PAGE {
            break;
        }
        after = page.last().map(|letter| letter.id.clone());
    }
    drop(bar);
    ezq.close().await;
    Ok(())
}

impl Selection {
    async fn act(self, session: &Session, action: EventAction) -> Result<(), Failure> {
        let is_by_id = self.is_by_id()?;
        let ezq = session.connect(Access::Change).await?;
        let queue = names::queue(&ezq, &self.queue).await?;
        if is_by_id {
            return self.act_on_ids(session, ezq, queue, action).await;
        }
        let bulk = Bulk {
            queue,
            action,
            state: EventState::Dead,
            filter: self.filter.of_events(),
            rate: self.rate,
            signed: self.signed,
        };
        bulk.run(session, ezq).await
    }

    /// Whether letters are named by their ids. Nothing that is said is ignored, and nothing is changed that
    /// nobody named.
    fn is_by_id(&self) -> Result<bool, Failure> {
        match (self.ids.is_empty(), self.filter.is_empty(), self.all) {
            (false, true, _) => Ok(true),
            (true, false, false) | (true, true, true) => Ok(false),
            (false, false, _) => Err(Failure::usage("give either ids or a filter")),
            (true, false, true) => Err(Failure::usage("give either a filter or `--all`")),
            (true, true, false) => Err(Failure::usage(
                "which dead letters? Give their ids, a filter such as `--handler`, or `--all`",
            )),
        }
    }

    async fn act_on_ids(
        self,
        session: &Session,
        ezq: Ezq,
        queue: QueueName,
        action: EventAction,
    ) -> Result<(), Failure> {
        let dry_run = session.global.dry_run;
        // A set: an id that is given twice means one letter.
        let asked: BTreeSet<i64> = self.ids.iter().copied().collect();
        let letters = ezq.dead_letters(&queue)?;
        if action == EventAction::Discard && !dry_run && !session.global.yes {
            let mut count: u64 = 0;
            for id in &asked {
                let found = letters.get(&MessageId::Number(*id)).await?;
                count += u64::from(found.is_some());
            }
            // Of none that exists nobody need be asked: the answer follows.
            if count > 0 {
                let what = format!("this deletes {}", letters_of(count, &queue));
                confirm(session, &what, queue.as_str())?;
            }
        }

        let mut done = Vec::new();
        let mut missing = Vec::new();
        for id in asked {
            let letter = MessageId::Number(id);
            let is_done = match dry_run {
                true => letters.get(&letter).await?.is_some(),
                false => self.act_on(&ezq, &queue, &action, &letter).await?,
            };
            match is_done {
                true => done.push(id.to_string()),
                false => missing.push(id.to_string()),
            }
        }
        ezq.close().await;
        report(session, &action, &queue, &done)?;

        // An id that was asked for and is no dead letter is an error, after the others were done.
        if missing.is_empty() {
            return Ok(());
        }
        let text = format!(
            "the queue `{queue}` has no dead letter {}",
            missing.join(", ")
        );
        Err(Failure::not_found(text))
    }

    async fn act_on(
        &self,
        ezq: &Ezq,
        queue: &QueueName,
        action: &EventAction,
        letter: &MessageId,
    ) -> Result<bool, Failure> {
        let events = ezq.events(queue)?;
        let request = match action {
            EventAction::Redrive => events.redrive(letter),
            _ => events.discard(EventRef::Dead(letter.clone())),
        };
        let is_done = signed!(request, self.signed).await?;
        if let (true, Some(rate)) = (is_done, self.rate) {
            tokio::time::sleep(Duration::from_secs(1) / rate).await;
        }
        Ok(is_done)
    }
}

fn report(
    session: &Session,
    action: &EventAction,
    queue: &QueueName,
    done: &[String],
) -> Result<(), Failure> {
    let dry_run = session.global.dry_run;
    let (participle, infinitive) = match action {
        EventAction::Redrive => ("redriven", "redrive"),
        _ => ("discarded", "discard"),
    };
    let what = letters_of(done.len(), queue);
    let text = match dry_run {
        true => format!("would {infinitive} {what}"),
        false => format!("{participle}: {what}"),
    };
    // The ids are texts, as everywhere: they may exceed what a reader of JSON keeps exact.
    let answer =
        json!({"queue": queue.as_str(), participle: done.len(), "ids": done, "dry_run": dry_run});
    session.output.done(&answer, text)
}

fn letters_of<N: From<u8> + PartialEq + Display>(count: N, queue: &QueueName) -> String {
    let letters = text::counted(count, "dead letter");
    format!("{letters} of the queue `{queue}`")
}

impl Filter {
    fn is_empty(&self) -> bool {
        let Self {
            handler,
            event_type,
            died_of,
            since,
            until,
        } = self;
        handler.is_none()
            && event_type.is_none()
            && died_of.is_none()
            && since.is_none()
            && until.is_none()
    }

    fn build(&self) -> DeadLetterFilter {
        let mut filter = DeadLetterFilter::all();
        if let Some(handler) = &self.handler {
            filter = filter.handler(handler);
        }
        if let Some(event_type) = &self.event_type {
            filter = filter.event_type(event_type);
        }
        if let Some(reason) = self.died_of {
            filter = filter.reason(reason);
        }
        if let Some(since) = self.since {
            filter = filter.died_after(since);
        }
        if let Some(until) = self.until {
            filter = filter.died_before(until);
        }
        filter
    }
    /// The same for an operation. A dead letter is stored when it dies.
    fn of_events(&self) -> EventFilter {
        let mut filter = EventFilter::all();
        filter.event_type.clone_from(&self.event_type);
        filter.died_of = self.died_of;
        filter.stored_after = self.since;
        filter.stored_before = self.until;
        match &self.handler {
            Some(handler) => filter.died_by(handler),
            None => filter,
        }
    }
}
