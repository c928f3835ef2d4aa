//! What stops a consumer from outside, heard from before its start until after its end: a token, its
//! handle and a first signal ask it to finish; an interrupt, a second signal and the end of its grace
//! cut it off.

use std::future::pending;
use std::time::Duration;

use futures_util::future::select_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::consumer::deadline::at;
use crate::consumer::stop::signals::Signals;
use crate::error::Result;
use crate::logging::warn;
use crate::observe::report::StopReason;

/// What is cut off has so long to end, and a part of that before its messages are given back.
const CUT_OFF: Duration = Duration::from_millis(900);
const HANDLERS: Duration = Duration::from_millis(500);

/// The ways to stop a consumer that others of the process have in hand.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stops {
    pub(crate) token: Tokens,
    pub(crate) handle: CancellationToken,
    pub(crate) interrupt: CancellationToken,
}

/// What a consumer is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing new starts, what runs may finish.
    ToFinish(StopReason),
    /// What runs is cancelled.
    ToCancel(StopReason),
}

impl Asked {
    pub(crate) fn reason(self) -> StopReason {
        match self {
            Self::ToFinish(reason) | Self::ToCancel(reason) => reason,
        }
    }
}

/// Listens to all of them, across restarts.
#[derive(Debug)]
pub(crate) struct Listener {
    stops: Stops,
    signals: Option<Signals>,
    grace: Option<Duration>,
    asked: Option<Asked>,
    /// When the grace ends.
    deadline: Option<Instant>,
    /// Since when what runs is cancelled.
    cut_off: Option<Instant>,
}

impl Listener {
    /// Signals are heard from now on: until then they end the process.
    pub(crate) fn new(stops: Stops, signals: bool, grace: Option<Duration>) -> Result<Self> {
        let signals = signals.then(Signals::listen).transpose()?;
        Ok(Self {
            stops,
            signals,
            grace,
            asked: None,
            deadline: None,
            cut_off: None,
        })
    }

    /// Waits for what is asked next: once to finish, and once to cancel.
    ///
    /// # Cancel safety
    /// Nothing is missed when the future is dropped.
    pub(crate) async fn next(&mut self) -> Asked {
        if self.cut_off.is_some() {
            return pending().await;
        }
        let running = self.asked.is_none();
        let reason = self.asked.map(Asked::reason);
        let asked = tokio::select! {
            biased;
            // The more urgent first.
            () = self.stops.interrupt.cancelled() => {
                Asked::ToCancel(reason.unwrap_or(StopReason::Handle))
            }
            () = next_signal(self.signals.as_mut()) => match reason {
                None => Asked::ToFinish(StopReason::Signal),
                Some(reason) => Asked::ToCancel(reason),
            },
            () = at(self.deadline) => {
                warn!("time is up: what still runs is cancelled");
                Asked::ToCancel(reason.unwrap_or(StopReason::Handle))
            }
            () = self.stops.token.cancelled(), if running => Asked::ToFinish(StopReason::Token),
            () = self.stops.handle.cancelled(), if running => Asked::ToFinish(StopReason::Handle),
        };
        match asked {
            Asked::ToFinish(_) => {
                self.deadline = self
                    .grace
                    .and_then(|grace| Instant::now().checked_add(grace));
            }
            Asked::ToCancel(_) => self.cut_off = Some(Instant::now()),
        }
        self.asked = Some(asked);
        asked
    }

    /// Why the consumer is to stop, if it is: for where nothing runs yet or any more.
    pub(crate) fn asked(&self) -> Option<StopReason> {
        self.asked.map(Asked::reason)
    }

    /// By when what was cancelled has to be over.
    pub(crate) fn handlers_end(&self) -> Option<Instant> {
        Some(self.cut_off? + HANDLERS)
    }

    /// By when the consumer has to be over.
    pub(crate) fn ends(&self) -> Option<Instant> {
        Some(self.cut_off? + CUT_OFF)
    }
}

async fn next_signal(signals: Option<&mut Signals>) {
    match signals {
        Some(signals) => signals.next().await,
        None => pending().await,
    }
}

/// Tokens of which any stops a consumer; mostly none or one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tokens(Vec<CancellationToken>);

impl Tokens {
    pub(crate) fn add(&mut self, token: CancellationToken) {
        self.0.push(token);
    }

    /// Waits until one of them fires.
    pub(crate) async fn cancelled(&self) {
        match &self.0[..] {
            [] => pending().await,
            [token] => token.cancelled().await,
            tokens => {
                select_all(tokens.iter().map(|token| Box::pin(token.cancelled()))).await;
            }
        }
    }
}
