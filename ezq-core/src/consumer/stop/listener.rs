//! What stops a consumer from outside, from before its start until after its last settlement.
//!
//! - A token, the handle and a first signal ask it to finish.
//! - An interrupt, a second signal and the end of the grace ask it to cancel.

use std::future::pending;
use std::time::Duration;

use futures_util::future::select_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::consumer::stop::deadline;
use crate::consumer::stop::signals::Signals;
use crate::error::Result;
use crate::logging::warn;
use crate::observe::report::StopReason;

/// How long after a request to cancel the consumer ends. Users are promised a second.
const CONSUMER_LIMIT: Duration = Duration::from_millis(900);
/// How long after a request to cancel handlers may still run; the rest is for giving messages back.
const HANDLER_LIMIT: Duration = Duration::from_millis(500);

/// The tokens that stop a consumer; others in the process hold clones.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopTokens {
    pub(crate) given: Tokens,
    pub(crate) handle: CancellationToken,
    pub(crate) interrupt: CancellationToken,
}

/// A request from outside to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopRequest {
    /// Nothing new starts, what runs may finish.
    Finish(StopReason),
    /// What runs is cancelled.
    Cancel(StopReason),
}

impl StopRequest {
    pub(crate) fn reason(self) -> StopReason {
        match self {
            Self::Finish(reason) | Self::Cancel(reason) => reason,
        }
    }
}

/// Listens to everything that stops a consumer from outside, across restarts.
#[derive(Debug)]
pub(crate) struct StopListener {
    tokens: StopTokens,
    signals: Option<Signals>,
    grace: Option<Duration>,
    request: Option<StopRequest>,
    /// When the grace ends.
    deadline: Option<Instant>,
    /// When the request to cancel came.
    cancelled: Option<Instant>,
}

impl StopListener {
    /// Listens from now on. Until now a signal ended the process.
    ///
    /// # Errors
    /// When the process cannot listen to signals.
    pub(crate) fn new(tokens: StopTokens, signals: bool, grace: Option<Duration>) -> Result<Self> {
        let signals = signals.then(Signals::listen).transpose()?;
        Ok(Self {
            tokens,
            signals,
            grace,
            request: None,
            deadline: None,
            cancelled: None,
        })
    }

    /// Waits for the next request: one to finish at most, and one to cancel.
    ///
    /// # Cancel safety
    /// Nothing is missed when the future is dropped.
    pub(crate) async fn next(&mut self) -> StopRequest {
        if self.cancelled.is_some() {
            return pending().await;
        }

        let is_running = self.request.is_none();
        let reason = self.request.map(StopRequest::reason);
        let request = tokio::select! {
            // The more urgent first: a request to cancel includes one to finish.
            biased;
            () = self.tokens.interrupt.cancelled() => {
                StopRequest::Cancel(reason.unwrap_or(StopReason::Handle))
            }
            // The first signal asks, the second one insists.
            () = next_signal(self.signals.as_mut()) => match reason {
                None => StopRequest::Finish(StopReason::Signal),
                Some(reason) => StopRequest::Cancel(reason),
            },
            // The grace runs from the request to finish on.
            () = deadline::passed(self.deadline) => {
                warn!("the time to stop is over: running handlers are cancelled");
                StopRequest::Cancel(reason.unwrap_or(StopReason::Handle))
            }
            // A fired token stays fired, so it is heard only once.
            () = self.tokens.given.cancelled(), if is_running => {
                StopRequest::Finish(StopReason::Token)
            }
            () = self.tokens.handle.cancelled(), if is_running => {
                StopRequest::Finish(StopReason::Handle)
            }
        };

        match request {
            StopRequest::Finish(_) => {
                self.deadline = self
                    .grace
                    .and_then(|grace| Instant::now().checked_add(grace));
            }
            StopRequest::Cancel(_) => self.cancelled = Some(Instant::now()),
        }
        self.request = Some(request);
        request
    }

    /// Why the consumer is to stop, if a request came already.
    pub(crate) fn requested(&self) -> Option<StopReason> {
        self.request.map(StopRequest::reason)
    }

    /// By when cancelled handlers have to be over.
    pub(crate) fn handler_deadline(&self) -> Option<Instant> {
        Some(self.cancelled? + HANDLER_LIMIT)
    }

    /// By when the consumer has to be over.
    pub(crate) fn consumer_deadline(&self) -> Option<Instant> {
        Some(self.cancelled? + CONSUMER_LIMIT)
    }
}

async fn next_signal(signals: Option<&mut Signals>) {
    match signals {
        Some(signals) => signals.next().await,
        None => pending().await,
    }
}

/// The tokens that the user gave: each of them stops the consumer. Mostly there is none or one.
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
                let fired = tokens.iter().map(|token| Box::pin(token.cancelled()));
                select_all(fired).await;
            }
        }
    }
}
