//! Everything that matches, changed as an operation that is stored: counted, confirmed, watched, stopped by
//! Ctrl-C. An operation that was interrupted goes on by `ezq operation resume`.

use std::future::IntoFuture as _;
use std::time::Duration;

use ezq::admin::{
    BulkRequest, EventAction, EventFilter, EventState, Operation, OperationStatus, Preview,
};
use ezq::{Error, ErrorKind, Ezq, QueueName};
use serde::Serialize;

use crate::confirmation::confirm;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::session::Session;
use crate::signed::{Signed, signed};
use crate::stopping::Signals;
use crate::text;

/// How long the server may take to note that an operation was stopped.
const STOP: Duration = Duration::from_secs(10);
/// How many events one step changes.
const STEP: u64 = 100;

/// What is done to which events.
pub(crate) struct Bulk {
    pub(crate) queue: QueueName,
    pub(crate) action: EventAction,
    pub(crate) state: EventState,
    pub(crate) filter: EventFilter,
    pub(crate) rate: Option<u32>,
    pub(crate) signed: Signed,
}

/// What was done, as `--json` prints it.
#[derive(Serialize)]
struct Answer<'a> {
    /// `null` if nothing was to be done.
    operation: Option<&'a str>,
    queue: &'a str,
    action: &'static str,
    state: String,
    target: Option<&'a str>,
    total: Option<u64>,
    done: u64,
    skipped: u64,
    failed: u64,
    dry_run: bool,
}

impl Bulk {
    pub(crate) async fn run(self, session: &Session, ezq: Ezq) -> Result<(), Failure> {
        // Refused before anything is counted.
        self.action.check(self.state)?;
        let counted = match self.request(&ezq, None)?.preview().await {
            Ok(preview) => Some(preview),
            // Those who do not ask how many need not wait for it.
            Err(error) if took_too_long(&error) && !session.global.dry_run => None,
            Err(error) => return Err(error.into()),
        };
        let total = counted.as_ref().map(|preview| preview.count);
        let words = Words::of(&self.action);

        if session.global.dry_run || total == Some(0) {
            ezq.close().await;
            let text = match session.global.dry_run {
                true => format!("would {} {}", words.infinitive, self.events(total)),
                false => format!("{}: {}", words.participle, self.events(total)),
            };
            return session.output.done(&self.answer(session, total), text);
        }
        let question = format!("this {} {}", words.present, self.events(total));
        confirm(session, &question, self.queue.as_str())?;

        // From here on Ctrl-C does not kill the program, but ends the operation between two steps.
        let signals = Signals::new()?;
        let started = self.request(&ezq, counted.as_ref())?.start().await?;
        if total.is_none_or(|total| total > STEP) {
            let id = &started.id;
            session
                .output
                .note(format!("the operation {id} begins; Ctrl-C stops it"));
        }
        let run = Run {
            session,
            ezq: &ezq,
            rate: self.rate,
            signed: &self.signed,
        };
        let ended = run.to_end(&started, signals).await?;
        ezq.close().await;
        report(session, &ended)
    }

    fn request<'e>(
        &self,
        ezq: &'e Ezq,
        preview: Option<&Preview>,
    ) -> Result<BulkRequest<'e>, Failure> {
        let mut events = ezq
            .events(&self.queue)?
            .all(self.state)
            .filter(self.filter.clone());
        if let Some(preview) = preview {
            events = events.previewed(preview);
        }
        let request = match &self.action {
            EventAction::Redrive => events.redrive(),
            EventAction::RetryNow => events.retry_now(),
            EventAction::Move { to } => events.move_to(to),
            // What a later version of the library can do has no verb here.
            _ => events.discard(),
        };
        Ok(signed!(request, self.signed))
    }

    fn events(&self, count: Option<u64>) -> String {
        named(count, self.state, &self.queue, &self.action)
    }

    fn answer(&self, session: &Session, total: Option<u64>) -> Answer<'_> {
        Answer {
            operation: None,
            queue: self.queue.as_str(),
            action: self.action.name(),
            state: self.state.to_string(),
            target: self.action.target().map(QueueName::as_str),
            total,
            done: 0,
            skipped: 0,
            failed: 0,
            dry_run: session.global.dry_run,
        }
    }
}

/// A run of an operation to its end.
pub(crate) struct Run<'a> {
    pub(crate) session: &'a Session,
    pub(crate) ezq: &'a Ezq,
    pub(crate) rate: Option<u32>,
    pub(crate) signed: &'a Signed,
}

impl Run<'_> {
    pub(crate) async fn to_end(
        &self,
        begun: &Operation,
        signals: Signals,
    ) -> Result<Operation, Failure> {
        let Self { session, ezq, .. } = self;
        let words = Words::of(&begun.action);
        let bar = Progress::new(session.output, begun.total, words.gerund);
        bar.at(begun.seen());

        let mut run = ezq
            .operations()
            .resume(&begun.id)
            .on_progress(|operation| bar.at(operation.seen()));
        if let Some(rate) = self.rate {
            run = run.rate(rate);
        }
        if let Some(who) = self.signed.by() {
            run = run.by(who);
        }

        let goes_on = format!("`ezq operation resume {}` goes on", begun.id);
        let ended = tokio::select! {
            ended = run => ended.map_err(|error| {
                let text = format!("{}. What was done stays done: {goes_on}", Failure::from(error));
                Failure::error(text)
            })?,
            // The step that is under way is taken as a whole, or not.
            () = signals.received() => self.stop(begun, &goes_on).await?,
        };
        drop(bar);
        match ended.status == OperationStatus::Ended {
            true => Ok(ended),
            false => {
                let text = format!("stopped: {} so far. {goes_on}", done_of(&ended));
                Err(Failure::error(text))
            }
        }
    }

    async fn stop(&self, begun: &Operation, goes_on: &str) -> Result<Operation, Failure> {
        let stop = self.ezq.operations().stop(&begun.id).reason("Ctrl-C");
        let stop = match self.signed.by() {
            Some(who) => stop.by(who),
            None => stop,
        };
        // Whoever ends the program does not wait for a server that is away.
        match tokio::time::timeout(STOP, stop.into_future()).await {
            Ok(stopped) => Ok(stopped?),
            Err(_) => {
                let text = format!("stopped here; the server did not answer. {goes_on}");
                Err(Failure::error(text))
            }
        }
    }
}

/// Says what an operation did that has ended. What the store refused is an error.
pub(crate) fn report(session: &Session, ended: &Operation) -> Result<(), Failure> {
    let answer = Answer {
        operation: Some(&ended.id),
        queue: ended.selection.queue.as_str(),
        action: ended.action.name(),
        state: ended.selection.state.to_string(),
        target: ended.action.target().map(QueueName::as_str),
        total: ended.total,
        done: ended.done,
        skipped: ended.skipped,
        failed: ended.failed,
        dry_run: false,
    };
    let words = Words::of(&ended.action);
    let mut text = format!(
        "{}: {}",
        words.participle,
        named(
            Some(ended.done),
            ended.selection.state,
            &ended.selection.queue,
            &ended.action
        )
    );
    if ended.skipped > 0 {
        text = format!("{text}; {} had changed meanwhile", ended.skipped);
    }
    session.output.done(&answer, text)?;

    if ended.failed > 0 {
        let failed = text::counted(ended.failed, "event");
        let text = format!("{failed} could not be changed, and stayed as they were");
        return Err(Failure::error(text));
    }
    Ok(())
}

/// How far an operation is: `200 of 1000 dead letters of the queue … redriven`.
pub(crate) fn done_of(operation: &Operation) -> String {
    let words = Words::of(&operation.action);
    let what = named(
        operation.total,
        operation.selection.state,
        &operation.selection.queue,
        &operation.action,
    );
    format!("{} {} of {what}", words.participle, operation.done)
}

/// The verb of an action.
struct Words {
    infinitive: &'static str,
    present: &'static str,
    participle: &'static str,
    gerund: &'static str,
}

impl Words {
    fn of(action: &EventAction) -> Self {
        let [infinitive, present, participle, gerund] = match action {
            EventAction::Redrive => ["redrive", "redrives", "redriven", "redriving"],
            EventAction::RetryNow => ["retry", "retries", "retried", "retrying"],
            EventAction::Move { .. } => ["move", "moves", "moved", "moving"],
            _ => ["discard", "deletes", "discarded", "discarding"],
        };
        Self {
            infinitive,
            present,
            participle,
            gerund,
        }
    }
}

/// `3 dead letters of the queue …`, or without a number where nobody could count them.
fn named(count: Option<u64>, state: EventState, queue: &QueueName, action: &EventAction) -> String {
    let noun = match state {
        EventState::Dead => "dead letter".to_owned(),
        state => format!("{state} event"),
    };
    let events = match count {
        Some(count) => text::counted(count, &noun),
        None => format!("{noun}s, which take too long to count,"),
    };
    match action.target() {
        Some(to) => format!("{events} of the queue `{queue}` to the queue `{to}`"),
        None => format!("{events} of the queue `{queue}`"),
    }
}

fn took_too_long(error: &Error) -> bool {
    error.kind() == ErrorKind::Transient
}
