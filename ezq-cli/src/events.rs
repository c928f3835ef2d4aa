//! `ezq event`: publishing an event by hand, what became of one, and which events a command changes. Listing
//! is in `browsing.rs`, and what is done to events in `one_event.rs` and `bulk.rs`.

use std::io::{self, IsTerminal as _, Read as _};
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use ezq::admin::{AuditAction, AuditEntry, EventAction, EventRef, EventState, recorded};
use ezq::engine::Cancel;
use ezq::error::error_chain;
use ezq::message::MessageId;
use ezq::publish::Published;
use ezq::{Envelope, Ezq};
use serde_json::json;

use crate::browsing::{self, List};
use crate::bulk::Bulk;
use crate::copies::HistoryRow;
use crate::failure::Failure;
use crate::filters::{Choice, Chosen};
use crate::following::{self, Tail};
use crate::names;
use crate::one_event::{self, OneAct, OneEvent};
use crate::session::{Access, Session};
use crate::signed::Signed;
use crate::types::{self, Types};
use crate::values;

#[derive(Debug, Subcommand)]
pub(crate) enum EventVerb {
    /// Publish one event, and print its id
    Publish(Publish),

    /// List the events of a queue
    List(List),

    /// List the types of events that are stored or subscribed to, and who publishes them
    Types(Types),

    /// Show the newest events of a queue, and with `-f` those that are published. Nothing is leased
    Tail(Tail),

    /// Cancel an event by its number, also while it is handled. It becomes a dead letter
    Cancel(OneEvent),

    /// Delete events: one by its number, also while it is handled, or all that match
    Discard(Change),

    /// Try events at once that wait for another attempt, or with `--state scheduled` are due later
    Retry(Change),

    /// Move events to another queue, which must exist
    Move {
        /// The other queue
        #[arg(long, value_name = "QUEUE")]
        to: String,
        #[command(flatten)]
        change: Change,
    },

    /// Show every stored copy of an event, with its handlers' attempts and errors
    Show {
        /// The id of the event, as `publish` and `dlq list --json` print it
        id: String,
        /// Look into this queue only
        #[arg(long, value_name = "QUEUE")]
        queue: Option<String>,
    },
}

/// An event that is written by hand. Without `--type` its JSON is a whole CloudEvent.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// The queue, which must exist
    #[arg(long, value_name = "QUEUE")]
    queue: String,
    /// The type of the event. Without it, the JSON is a CloudEvent that names its type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// The data as JSON [default: what is piped in]
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
    /// Who says so, as a URI reference [default: EZQ_APP, else `ezq`]
    #[arg(long, value_name = "URI")]
    source: Option<String>,
    /// What the event is about
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// The ordering key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Store nothing if an event with this key was stored within the window
    #[arg(long, value_name = "KEY")]
    dedupe_key: Option<String>,
    /// Let it be due later, such as `5m`
    #[arg(long, value_name = "DURATION", value_parser = values::duration, conflicts_with = "at")]
    delay: Option<Duration>,
    /// Let it be due at this time
    #[arg(long, value_name = "TIME", value_parser = values::exact_time)]
    at: Option<DateTime<Utc>>,
    #[command(flatten)]
    signed: Signed,
}

/// What is changed, and who says so.
#[derive(Debug, Args)]
pub(crate) struct Change {
    #[command(flatten)]
    signed: Signed,
    // Last: what follows would be listed as filters by `--help`.
    #[command(flatten)]
    choice: Choice,
}

impl Change {
    async fn discard(self, session: &Session) -> Result<(), Failure> {
        // One that waits is cancelled, which also reaches one that a worker has.
        if let Chosen::One(id) = self.choice.chosen(None)? {
            let event = OneEvent {
                queue: self.choice.queue,
                id,
                signed: self.signed,
            };
            return one_event::cancel(session, event, Cancel::Discard).await;
        }
        let chosen = self.choice.chosen(None)?;
        let ezq = session.connect(Access::Change).await?;
        self.act(session, ezq, chosen, EventAction::Discard).await
    }

    async fn retry(self, session: &Session) -> Result<(), Failure> {
        let chosen = self.choice.chosen(Some(EventState::Retrying))?;
        let ezq = session.connect(Access::Change).await?;
        self.act(session, ezq, chosen, EventAction::RetryNow).await
    }

    async fn move_to(self, session: &Session, to: &str) -> Result<(), Failure> {
        let chosen = self.choice.chosen(None)?;
        let ezq = session.connect(Access::Change).await?;
        let to = names::queue(&ezq, to).await?;
        self.act(session, ezq, chosen, EventAction::Move { to })
            .await
    }

    async fn act(
        self,
        session: &Session,
        ezq: Ezq,
        chosen: Chosen,
        action: EventAction,
    ) -> Result<(), Failure> {
        let queue = names::queue(&ezq, &self.choice.queue).await?;
        if action.target() == Some(&queue) {
            let text = format!("`--to {queue}` is the queue that the events are in");
            return Err(Failure::usage(text));
        }

        let signed = self.signed;
        let event = match chosen {
            Chosen::One(id) => EventRef::Waiting(MessageId::Number(id)),
            Chosen::Letter(id) => EventRef::Dead(MessageId::Number(id)),
            Chosen::Many(state, filter) => {
                let bulk = Bulk {
                    queue,
                    action,
                    state,
                    filter,
                    rate: self.choice.rate,
                    signed,
                };
                return bulk.run(session, ezq).await;
            }
        };
        let act = OneAct {
            queue,
            event,
            action,
            signed,
        };
        act.run(session, ezq).await
    }
}

pub(crate) async fn run(session: &Session, verb: EventVerb) -> Result<(), Failure> {
    match verb {
        EventVerb::Publish(publish) => publish.run(session).await,
        EventVerb::List(list) => browsing::list(session, list).await,
        EventVerb::Types(types) => types::types(session, types).await,
        EventVerb::Tail(tail) => following::tail(session, tail).await,
        EventVerb::Cancel(event) => one_event::cancel(session, event, Cancel::Dead).await,
        EventVerb::Discard(change) => change.discard(session).await,
        EventVerb::Retry(change) => change.retry(session).await,
        EventVerb::Move { change, to } => change.move_to(session, &to).await,
        EventVerb::Show { id, queue } => show(session, &id, queue).await,
    }
}

impl Publish {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        // Read before connecting: a wrong event needs no database.
        let text = self.text()?;
        let ezq = session.connect(Access::Change).await?;
        let queue = names::queue(&ezq, &self.queue).await?;
        let envelope = self.envelope(&text, &ezq.config().app)?;
        let event_id = envelope.id().to_owned();
        let event_type = envelope.event_type().to_owned();

        let mut request = ezq.publish_envelope(envelope).queue(&queue);
        if let Some(key) = self.key {
            request = request.key(key);
        }
        if let Some(key) = self.dedupe_key {
            request = request.dedupe_key(key);
        }
        if let Some(delay) = self.delay {
            request = request.after(delay);
        }
        if let Some(at) = self.at {
            request = request.at(at);
        }

        if session.global.dry_run {
            // What cannot be published is refused by this as well.
            request.prepare()?;
            ezq.close().await;
            let answer = json!({
                "queue": queue.as_str(), "event_id": event_id, "event_type": event_type, "id": null,
                "is_duplicate": null, "dry_run": true,
            });
            let text = format!("would publish `{event_type}` to the queue `{queue}`");
            return session.output.done(&answer, text);
        }

        let signature = self.signed.signature(&ezq.config().app);
        let action = AuditAction::Publish;
        let mut entry = AuditEntry::new(Utc::now(), signature, action, queue.clone());
        entry.subject = Some(event_type.clone());
        let publish = request.into_future();
        let published = recorded(ezq.pgmq(), entry, publish, |published: &Published| {
            // A duplicate stores nothing.
            Some(u64::from(!published.is_duplicate))
        })
        .await?;
        ezq.close().await;
        let answer = json!({
            "queue": queue.as_str(), "event_id": published.event_id, "event_type": event_type,
            "id": published.id.to_string(), "is_duplicate": published.is_duplicate, "dry_run": false,
        });
        let what = match published.is_duplicate {
            true => "nothing stored: an event of this dedupe key is",
            false => "published",
        };
        // The note goes to stderr and the id alone to stdout, so that a script can keep it.
        session
            .output
            .done(&answer, format!("{what} in the queue `{queue}`"))?;
        session.output.data(&published.event_id)
    }

    /// The JSON, from the command line or what is piped in.
    fn text(&self) -> Result<String, Failure> {
        if let Some(data) = &self.data {
            return Ok(data.clone());
        }
        const MISSING: &str = "the event has no JSON: give `--data`, or pipe it in";
        // On a terminal nobody would know that the program waits for input.
        if io::stdin().is_terminal() {
            return Err(Failure::usage(MISSING));
        }

        let mut text = String::new();
        io::stdin()
            .lock()
            .read_to_string(&mut text)
            .map_err(|error| Failure::error(format!("cannot read what is piped in: {error}")))?;
        match text.trim().is_empty() {
            true => Err(Failure::usage(MISSING)),
            false => Ok(text),
        }
    }

    fn envelope(&self, text: &str, app: &str) -> Result<Envelope, Failure> {
        let Some(event_type) = &self.event_type else {
            if self.source.is_some() || self.subject.is_some() {
                let text = "`--source` and `--subject` go with `--type`: a CloudEvent has its own";
                return Err(Failure::usage(text));
            }
            return text
                .parse::<Envelope>()
                .map_err(|error| Failure::usage(error_chain(&error)));
        };

        // The library calls wrong JSON an error of encoding; here somebody has typed it.
        let source = self.source.as_deref().unwrap_or(app);
        let mut builder = Envelope::builder(event_type, source)
            .json(text.trim())
            .map_err(|error| Failure::usage(error_chain(&error)))?;
        if let Some(subject) = &self.subject {
            builder = builder.subject(subject);
        }
        Ok(builder.build()?)
    }
}

async fn show(session: &Session, id: &str, queue: Option<String>) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let history = match queue {
        None => ezq.history(id).await?,
        Some(queue) => {
            let queue = names::queue(&ezq, queue).await?;
            ezq.history(id).queue(&queue).await?
        }
    };
    ezq.close().await;

    if history.is_empty() && history.unread.is_empty() {
        return Err(Failure::not_found(history.to_string()));
    }
    match session.global.json {
        true => session.output.lines(&[HistoryRow::of(&history)]),
        false => session.output.data(&history),
    }
}
