//! `ezq subscription`: which queues get copies of which broadcast events.

use chrono::{DateTime, Utc};
use clap::Subcommand;
use ezq::Ezq;
use ezq::admin::{QueueSubscription, Recipient};
use ezq::event::Pattern;
use serde::Serialize;
use serde_json::json;

use crate::confirmation::confirm;
use crate::failure::Failure;
use crate::names;
use crate::output::Row;
use crate::session::{Access, Session};
use crate::signed::{Signed, signed};
use crate::text;

#[derive(Debug, Subcommand)]
pub(crate) enum SubscriptionVerb {
    /// List the subscriptions of all applications
    List,

    /// Show which queues would get a copy of an event of a type, and why
    Test {
        /// The type, such as `order.paid`
        #[arg(value_name = "TYPE")]
        event_type: String,
    },

    /// Subscribe a queue. An application that subscribes by itself needs no help
    Add {
        #[command(flatten)]
        one: One,
    },

    /// Remove a subscription. A consumer that needs it adds it again when it starts
    Remove {
        #[command(flatten)]
        one: One,
    },

    /// Remove every subscription of an application that is gone, and what it said of its events
    Prune {
        /// The application
        #[arg(long, value_name = "NAME")]
        app: String,
        #[command(flatten)]
        signed: Signed,
    },
}

/// One subscription.
#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The queue that gets the copies
    queue: String,
    /// The types of events: `order.paid`, `order.*` or `order.#`
    pattern: String,
    /// The application whose subscription it is, as `list` shows it
    #[arg(long, value_name = "NAME")]
    app: String,
    #[command(flatten)]
    signed: Signed,
}

pub(crate) async fn run(session: &Session, verb: SubscriptionVerb) -> Result<(), Failure> {
    match verb {
        SubscriptionVerb::List => list(session).await,
        SubscriptionVerb::Test { event_type } => test(session, &event_type).await,
        SubscriptionVerb::Add { one } => add(session, one).await,
        SubscriptionVerb::Remove { one } => remove(session, one).await,
        SubscriptionVerb::Prune { app, signed } => prune(session, &app, &signed).await,
    }
}

async fn all(ezq: &Ezq) -> Result<Vec<QueueSubscription>, Failure> {
    Ok(ezq.subscriptions()?.list().await?)
}

async fn list(session: &Session) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let found = all(&ezq).await?;
    ezq.close().await;

    let rows: Vec<SubscriptionRow<'_>> = found.iter().map(SubscriptionRow::of).collect();
    session.output.list(&rows, "no subscriptions")
}

async fn test(session: &Session, event_type: &str) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let found = ezq.subscriptions()?.test(event_type).await?;
    ezq.close().await;

    let rows: Vec<RecipientRow<'_>> = found.iter().map(RecipientRow::of).collect();
    let hint = format!("no queue gets a copy of `{event_type}`");
    session.output.list(&rows, &hint)
}

async fn add(session: &Session, one: One) -> Result<(), Failure> {
    // A wrong pattern is refused before anything is connected.
    Pattern::new(&one.pattern)?;
    let ezq = session.connect_as(Access::Change, Some(&one.app)).await?;
    let queue = names::queue(&ezq, &one.queue).await?;
    // The library says whether it added one; a dry run looks.
    let is_changed = match session.global.dry_run {
        true => !all(&ezq).await?.iter().any(|found| one.is(found)),
        false => {
            let add = ezq.subscriptions()?.add(&queue, one.pattern.as_str());
            signed!(add, one.signed).await?
        }
    };
    ezq.close().await;

    let what = one.shown();
    let text = match (is_changed, session.global.dry_run) {
        (true, false) => format!("added {what}"),
        (true, true) => format!("would add {what}"),
        (false, _) => format!("{what} is there already"),
    };
    one.report(session, is_changed, text)
}

async fn remove(session: &Session, one: One) -> Result<(), Failure> {
    // A wrong pattern is refused before anything is connected.
    Pattern::new(&one.pattern)?;
    let ezq = session.connect_as(Access::Change, Some(&one.app)).await?;
    // The queue need not exist: one that is gone is a reason to remove a subscription.
    if !all(&ezq).await?.iter().any(|found| one.is(found)) {
        let text = format!("there is no {}", one.named());
        return Err(Failure::not_found(text));
    }
    if !session.global.dry_run {
        let subscriptions = ezq.subscriptions()?;
        let remove = subscriptions.remove(&one.queue, one.pattern.as_str());
        signed!(remove, one.signed).await?;
    }
    ezq.close().await;

    let verb = match session.global.dry_run {
        true => "would remove",
        false => "removed",
    };
    let text = format!("{verb} {}", one.shown());
    one.report(session, true, text)
}

async fn prune(session: &Session, app: &str, signed: &Signed) -> Result<(), Failure> {
    let dry_run = session.global.dry_run;
    let ezq = session.connect(Access::Change).await?;
    let found = all(&ezq).await?;
    // What an application said of its events is removed with these, and not counted here.
    let count = found.iter().filter(|found| found.app == app).count();

    let removed = match dry_run {
        true => u64::try_from(count).unwrap_or(u64::MAX),
        false => {
            let what = text::counted(count, "subscription");
            let what = format!("this removes {what} of `{app}`, and what it said of its events");
            confirm(session, &what, app)?;
            let removed = signed!(ezq.subscriptions()?.remove_app(app), signed).await?;
            if removed == 0 {
                let known = found.iter().map(|found| found.app.as_str());
                let text = names::missing("application", app, known, "nothing is stored of the");
                return Err(Failure::not_found(text));
            }
            removed
        }
    };
    ezq.close().await;

    let text = match dry_run {
        true => format!(
            "would remove {} of `{app}`",
            text::counted(count, "subscription")
        ),
        // Both are counted in one number.
        false => format!("removed all that is stored of `{app}`: {removed} in number"),
    };
    let answer = json!({"application": app, "removed": removed, "dry_run": dry_run});
    session.output.done(&answer, text)
}

impl One {
    fn is(&self, found: &QueueSubscription) -> bool {
        found.app == self.app
            && found.pattern.as_str() == self.pattern
            && found.queue.as_str() == self.queue.to_lowercase()
    }

    fn named(&self) -> String {
        let Self {
            queue,
            pattern,
            app,
            ..
        } = self;
        format!("subscription of the queue `{queue}` to `{pattern}` by `{app}`")
    }

    fn shown(&self) -> String {
        format!("the {}", self.named())
    }

    fn report(&self, session: &Session, is_changed: bool, text: String) -> Result<(), Failure> {
        let dry_run = session.global.dry_run;
        let answer = json!({
            "application": self.app, "queue": self.queue, "pattern": self.pattern,
            "changed": is_changed && !dry_run, "dry_run": dry_run,
        });
        session.output.done(&answer, text)
    }
}

/// A subscription, as `--json` prints it.
#[derive(Serialize)]
struct SubscriptionRow<'a> {
    application: &'a str,
    queue: &'a str,
    pattern: &'a str,
    since: DateTime<Utc>,
    queue_exists: bool,
}

impl<'a> SubscriptionRow<'a> {
    fn of(found: &'a QueueSubscription) -> Self {
        Self {
            application: &found.app,
            queue: found.queue.as_str(),
            pattern: found.pattern.as_str(),
            since: found.since,
            queue_exists: found.queue_exists,
        }
    }
}

impl Row for SubscriptionRow<'_> {
    const COLUMNS: &'static [&'static str] = &["QUEUE", "PATTERN", "APPLICATION", "SINCE", "STATE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.queue.to_owned(),
            self.pattern.to_owned(),
            self.application.to_owned(),
            text::time(self.since),
            state(self.queue_exists),
        ]
    }
}

/// A queue that would get a copy, as `--json` prints it.
#[derive(Serialize)]
struct RecipientRow<'a> {
    queue: &'a str,
    queue_exists: bool,
    subscriptions: Vec<SubscriptionRow<'a>>,
}

impl<'a> RecipientRow<'a> {
    fn of(found: &'a Recipient) -> Self {
        let subscriptions = found.subscriptions.iter();
        Self {
            queue: found.queue.as_str(),
            queue_exists: found.exists,
            subscriptions: subscriptions.map(SubscriptionRow::of).collect(),
        }
    }
}

impl Row for RecipientRow<'_> {
    const COLUMNS: &'static [&'static str] = &["QUEUE", "BY", "STATE"];

    fn cells(&self) -> Vec<String> {
        let by = self.subscriptions.iter();
        let by: Vec<String> = by
            .map(|one| format!("{} of {}", one.pattern, one.application))
            .collect();
        vec![
            self.queue.to_owned(),
            by.join(", "),
            state(self.queue_exists),
        ]
    }
}

fn state(exists: bool) -> String {
    if exists { "-" } else { "no such queue" }.to_owned()
}
