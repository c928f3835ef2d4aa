//! The `Display` of a history: a report for people, one line for each copy and each handler.

use std::fmt;

use chrono::{DateTime, Utc};

use super::copies::{CopyState, EventCopy, History};
use crate::engine::Death;
use crate::message::settlement::{HandlerMark, HandlerName, HandlerState, Reason};

const NOTHING: &str = "nothing is kept of it. An event is deleted once it is handled, unless its \
                       queue keeps an archive or a trail: say so with \
                       `.retention(\"<queue>\", Retention::ARCHIVE)`, or `TRAIL`, where the application is built";

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {}: ", self.event_id)?;
        match self.copies.as_slice() {
            [] => f.write_str(NOTHING)?,
            [_] => f.write_str("1 copy")?,
            copies => write!(f, "{} copies", copies.len())?,
        }

        for copy in &self.copies {
            show(copy, self.asked_at, f)?;
        }
        if !self.unread.is_empty() {
            write!(f, "\nnot looked into: {}", self.unread.join(", "))?;
        }
        Ok(())
    }
}

fn show(copy: &EventCopy, now: DateTime<Utc>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let EventCopy {
        queue,
        message_id,
        event_type,
        published_at,
        deliveries,
        ..
    } = copy;
    let event_type = event_type.as_deref().unwrap_or("of no type");
    write!(f, "\n{queue} {message_id}, {event_type}: ")?;

    match &copy.replay {
        Some(replay) => write!(
            f,
            "handed over by the replay `{replay}` {}",
            Time(*published_at)
        )?,
        None => write!(f, "published {}", Time(*published_at))?,
    }

    match deliveries {
        // A claim inside a handler's transaction counts no delivery, so 0 may mean handled.
        0 if is_acknowledged(copy) => {}
        0 => f.write_str(", not delivered yet")?,
        n => write!(f, ", delivered {}", Times(*n))?,
    }
    f.write_str(if copy.died_before.is_some() {
        " since it was redriven, "
    } else {
        ", "
    })?;

    show_state(&copy.state, now, f)?;
    for (name, mark) in &copy.handlers.0 {
        handler(name, mark, copy, f)?;
    }

    let Some(Death {
        reason, died_at, ..
    }) = &copy.died_before
    else {
        return Ok(());
    };
    f.write_str("\n  redriven; had died")?;
    if let Some(at) = died_at {
        write!(f, " {}", Time(*at))?;
    }
    died_of(reason.as_ref(), f)
}

fn is_acknowledged(copy: &EventCopy) -> bool {
    matches!(
        copy.state,
        CopyState::Archived { .. } | CopyState::Handled { .. }
    )
}

fn show_state(state: &CopyState, now: DateTime<Utc>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match state {
        CopyState::Waiting { due } if *due <= now => write!(f, "ready since {}", Time(*due)),
        CopyState::Waiting { due } => write!(f, "waiting until {}", Time(*due)),
        CopyState::Leased { until } => write!(f, "leased until {}", Time(*until)),
        CopyState::Retrying { due } if *due <= now => {
            write!(f, "ready to be tried again since {}", Time(*due))
        }
        CopyState::Retrying { due } => write!(f, "to be tried again at {}", Time(*due)),
        CopyState::Archived { at } => write!(f, "handled and archived {}", Time(*at)),
        CopyState::Handled { at } => write!(f, "handled and deleted {}", Time(*at)),
        CopyState::Dead { letter, at, reason } => {
            write!(f, "died {}, dead letter {letter}", Time(*at))?;
            died_of(reason.as_ref(), f)
        }
    }
}

fn died_of(reason: Option<&Reason>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some(Reason {
        kind,
        handler,
        error,
        attempts,
    }) = reason
    else {
        return Ok(());
    };

    write!(f, ": {kind}")?;
    if let Some(handler) = handler {
        write!(f, " of {handler}")?;
    }
    write!(f, ", tried {}: {error}", Times(*attempts))
}

fn handler(
    name: &HandlerName,
    mark: &HandlerMark,
    copy: &EventCopy,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let state = match mark.state {
        HandlerState::Done => "done",
        // Every handler was done in the end, or the event would not be acknowledged.
        HandlerState::Retry if is_acknowledged(copy) => "done at last",
        HandlerState::Retry if mark.held == Some(copy.deliveries) => "waits while it is paused",
        HandlerState::Retry => "to be tried again",
        HandlerState::Dead => "given up",
    };

    write!(f, "\n  {name}: {state}")?;
    match failures(mark) {
        0 => {}
        n => write!(f, ", failed {}", Times(n))?,
    }
    for record in &mark.errors {
        write!(
            f,
            "\n    attempt {}, {}: {}",
            record.attempt,
            Time(record.at),
            record.error
        )?;
    }
    Ok(())
}

/// How many attempts failed: all of them, but for the last one of a handler that is done.
fn failures(mark: &HandlerMark) -> u32 {
    match mark.state {
        HandlerState::Done => mark.attempts.saturating_sub(1),
        HandlerState::Retry | HandlerState::Dead => mark.attempts,
    }
}

struct Time(DateTime<Utc>);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.format("%Y-%m-%d %H:%M:%S%.3f UTC").fmt(f)
    }
}

struct Times(u32);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("once"),
            n => write!(f, "{n} times"),
        }
    }
}
