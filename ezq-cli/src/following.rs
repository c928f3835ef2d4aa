//! `ezq event tail`: the newest events of a queue, and those that follow.

use clap::Args;
use ezq::admin::{EventFilter, EventState, Follow};
use ezq::chrono::Utc;
use ezq::engine::EventCopy;

use crate::copies::CopyRow;
use crate::failure::Failure;
use crate::names;
use crate::session::{Access, Session};
use crate::stopping::Signals;
use crate::text;

/// Which events are shown.
#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// The queue
    queue: String,
    /// Go on with what is published, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// How many of the newest events to show first, at most 1,000
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u16).range(..=1000))]
    last: u16,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only events of this ordering key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

pub(crate) async fn tail(session: &Session, tail: Tail) -> Result<(), Failure> {
    let signals = Signals::new()?;
    let ezq = session.connect(Access::Read).await?;
    let queue = names::queue(&ezq, &tail.queue).await?;
    let events = ezq.events(&queue)?;
    let mut follow = events.follow(usize::from(tail.last)).await?;

    let mut filter = EventFilter::all();
    filter.event_type = tail.event_type;
    filter.key = tail.key;
    let shown = Shown { session, filter };
    shown.stored(&mut follow).await?;
    if tail.follow {
        session
            .output
            .note(format!("following the queue `{queue}`; Ctrl-C ends it"));
        tokio::select! {
            () = signals.received() => {}
            ended = shown.published(&mut follow) => ended?,
        }
    }
    ezq.close().await;
    Ok(())
}

/// Where and which events are printed.
struct Shown<'a> {
    session: &'a Session,
    filter: EventFilter,
}

impl Shown<'_> {
    /// Prints what is in the queue.
    async fn stored(&self, follow: &mut Follow<'_>) -> Result<(), Failure> {
        loop {
            let found = follow.ready().await?;
            if found.is_empty() {
                return Ok(());
            }
            self.print(&found)?;
        }
    }

    /// Prints what is published, until writing fails.
    async fn published(&self, follow: &mut Follow<'_>) -> Result<(), Failure> {
        loop {
            let found = follow.next().await?;
            self.print(&found)?;
        }
    }

    fn print(&self, events: &[EventCopy]) -> Result<(), Failure> {
        let now = Utc::now();
        for event in events.iter().filter(|event| self.filter.matches(event)) {
            let state = EventState::of(event, now).unwrap_or(EventState::Ready);
            if self.session.global.json {
                let row = CopyRow::listed(event, state);
                self.session.output.lines(&[row])?;
                continue;
            }
            // A table would have to know all lines before it prints the first.
            let line = format!(
                "{}  {}  {}  {}",
                text::time(event.published_at),
                event.message_id,
                event.event_type.as_deref().unwrap_or("-"),
                text::shortened(event.body.as_deref().unwrap_or("-")),
            );
            self.session.output.data(&line)?;
        }
        Ok(())
    }
}
