//! `ezq dlq`: the dead letters of a queue, listed, redriven and discarded.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use ezq::admin::{DeadLetterAction, DeadLetterFilter, DeadLetterQueue, DeadLetterSelection};
use ezq::message::{MessageId, ReasonKind};
use ezq::{Ezq, QueueName};
use serde_json::json;

use crate::confirmation::confirm;
use crate::failure::Failure;
use crate::letters::{Letter, WholeLetter};
use crate::names;
use crate::session::{Access, Session};
use crate::text;
use crate::values;

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetterVerb {
    /// List the oldest dead letters of a queue
    List {
        /// The queue in which they died
        queue: String,
        #[command(flatten)]
        filter: Filter,
        /// How many to list
        #[arg(long, value_name = "N", default_value = "50")]
        limit: u32,
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
    #[arg(long, value_parser = values::reason)]
    reason: Option<ReasonKind>,
    /// Only those that died at this time or later: `2026-01-31T12:00:00Z`, or `2h` for two hours ago
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    since: Option<DateTime<Utc>>,
    /// Only those that died before this time
    #[arg(long, value_name = "TIME", value_parser = values::time)]
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
    /// How many a second at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
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
        DeadLetterVerb::Redrive { selection } => act(session, Action::Redrive, selection).await,
        DeadLetterVerb::Discard { selection } => act(session, Action::Discard, selection).await,
        DeadLetterVerb::Export { queue, filter } => export(session, &queue, filter).await,
    }
}

async fn list(session: &Session, queue: &str, filter: Filter, limit: u32) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let queue = names::queue(&ezq, queue).await?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
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
        session
            .output
            .note("there are more: `--limit` sets how many are listed");
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

async fn export(session: &Session, queue: &str, filter: Filter) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let queue = names::queue(&ezq, queue).await?;
    // Held in memory until all are read: an error on the way must not look like a whole export.
    let found = ezq
        .dead_letters(&queue)?
        .list(&filter.build(), usize::MAX)
        .await?;

    let rows: Vec<WholeLetter<'_>> = found
        .iter()
        .map(|letter| WholeLetter::of(queue.as_str(), letter))
        .collect();
    session.output.lines(&rows)?;
    ezq.close().await;
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Redrive,
    Discard,
}

impl Action {
    fn begin<'a>(
        self,
        letters: &DeadLetterQueue<'a>,
        which: DeadLetterSelection,
    ) -> DeadLetterAction<'a> {
        match self {
            Self::Redrive => letters.redrive(which),
            Self::Discard => letters.discard(which),
        }
    }

    /// The participle and the infinitive.
    fn verbs(self) -> (&'static str, &'static str) {
        match self {
            Self::Redrive => ("redriven", "redrive"),
            Self::Discard => ("discarded", "discard"),
        }
    }
}

async fn act(session: &Session, action: Action, selection: Selection) -> Result<(), Failure> {
    let asked: BTreeSet<i64> = selection.ids.iter().copied().collect();
    let which = selection.which()?;
    let dry_run = session.global.dry_run;
    let ezq = session.connect(Access::Change).await?;
    let queue = names::queue(&ezq, &selection.queue).await?;

    let letters = ezq.dead_letters(&queue)?;
    if matches!(action, Action::Discard) && !dry_run && !session.global.yes {
        // Only a dry run knows how many a filter selects. With `--yes` nobody would read it.
        let count = action.begin(&letters, which.clone()).dry_run().await?.len();
        let what = format!("this deletes {}", letters_of(count, &queue));
        confirm(session, &what, queue.as_str())?;
    }

    let mut request = action.begin(&letters, which);
    if let Some(rate) = selection.rate {
        request = request.rate(rate);
    }
    let done = match dry_run {
        true => request.dry_run().await?,
        false => request.await?,
    };
    report(session, action, &queue, &done)?;
    close_and_check(ezq, &queue, &asked, &done).await
}

fn report(
    session: &Session,
    action: Action,
    queue: &QueueName,
    done: &[MessageId],
) -> Result<(), Failure> {
    let dry_run = session.global.dry_run;
    let (participle, infinitive) = action.verbs();
    // Texts, as everywhere: they may exceed what a reader of JSON keeps exact.
    let ids: Vec<String> = done.iter().map(ToString::to_string).collect();
    let what = letters_of(done.len(), queue);
    let text = match dry_run {
        true => format!("would {infinitive} {what}"),
        false => format!("{participle}: {what}"),
    };

    let answer =
        json!({"queue": queue.as_str(), participle: done.len(), "ids": ids, "dry_run": dry_run});
    session.output.done(&answer, text)
}

/// An id that was asked for and is no dead letter is an error, after the others were done.
async fn close_and_check(
    ezq: Ezq,
    queue: &QueueName,
    asked: &BTreeSet<i64>,
    done: &[MessageId],
) -> Result<(), Failure> {
    ezq.close().await;
    let done: BTreeSet<i64> = done.iter().filter_map(MessageId::as_number).collect();
    let missing: Vec<String> = asked.difference(&done).map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(", ");
    let text = format!("the queue `{queue}` has no dead letter {missing}");
    Err(Failure::not_found(text))
}

fn letters_of(count: usize, queue: &QueueName) -> String {
    let letters = text::counted(count, "dead letter");
    format!("{letters} of the queue `{queue}`")
}

impl Filter {
    fn is_empty(&self) -> bool {
        let Self {
            handler,
            event_type,
            reason,
            since,
            until,
        } = self;
        handler.is_none()
            && event_type.is_none()
            && reason.is_none()
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
        if let Some(reason) = self.reason {
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
}

impl Selection {
    /// What is selected. Nothing that is said is ignored, and nothing is changed that nobody named.
    fn which(&self) -> Result<DeadLetterSelection, Failure> {
        match (self.ids.is_empty(), self.filter.is_empty(), self.all) {
            (false, true, _) => {
                // A set: an id that is given twice means one letter.
                let ids: BTreeSet<i64> = self.ids.iter().copied().collect();
                let ids = ids.into_iter().map(MessageId::Number).collect::<Vec<_>>();
                Ok(ids.into())
            }
            (true, false, false) | (true, true, true) => Ok(self.filter.build().into()),
            (false, false, _) => Err(Failure::usage("give either ids or a filter")),
            (true, false, true) => Err(Failure::usage("give either a filter or `--all`")),
            (true, true, false) => Err(Failure::usage(
                "which dead letters? Give their ids, a filter such as `--handler`, or `--all`",
            )),
        }
    }
}
