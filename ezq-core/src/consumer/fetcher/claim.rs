//! One claim: what was asked for, what was true then, and the answer.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{Instrument, debug_span};

use crate::consumer::fetcher::wakeups::Wakeups;
use crate::consumer::fetcher::walk::ClaimStart;
use crate::consumer::pausing::search::Searched;
use crate::engine::{Engine, LeaseRequest, Leased};
use crate::error::{Error, ErrorKind, Result};
use crate::observe::metrics::{QueueMetrics, Since};
use crate::observe::tracer::{Receiving, Tracer};

/// What a fetch came to.
pub(crate) enum Fetched {
    Leased(Box<Answer>),
    /// How many events a transaction claimed and handled, and whether there may be more. `None` if
    /// the next batch is to be leased.
    Transactional(Option<(usize, bool)>),
    /// A search for control events, while the queue is paused.
    Searched(Box<Searched>),
}

/// One claim, and what was true when it was sent.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Its number among the claims of this consumer; 0 if that does not matter.
    pub(crate) number: u64,
    pub(crate) sent: Instant,
    /// How many deliveries it asks for.
    pub(crate) max: usize,
    pub(crate) start: ClaimStart,
    /// Everything that was fetched before was settled.
    pub(crate) is_settled: bool,
    /// No delivery with an ordering key was held, so none held up what may follow it.
    pub(crate) is_keyless: bool,
    /// Deliveries that came before were not taken in yet.
    pub(crate) is_early: bool,
    /// All that the walk had released was in its place again.
    pub(crate) has_returned: bool,
    /// How many deliveries had gone back; `None` if some were on their way.
    pub(crate) gone_back: Option<u64>,
    /// Asking for wake-ups had failed: this claim asks once more.
    pub(crate) asks_for_wakeups: bool,
}

/// The answer to a claim.
pub(crate) struct Answer {
    pub(crate) claim: Claim,
    pub(crate) result: Result<Leased>,
    /// The result of creating the queue again, if it was gone.
    pub(crate) created: Option<Result<()>>,
    /// The wake-ups, if they had failed before and the engine answered now.
    pub(crate) wakeups: Option<Wakeups>,
}

impl Claim {
    /// Whether the claim brought as much as it asked for, so that there may be more.
    pub(crate) fn is_full(&self, leased: &Leased) -> bool {
        leased.deliveries.len() >= self.max
    }

    /// Whether it is likely that there is more. A claim of messages with ordering keys takes an equal share of
    /// each key and asks for some keys only, so it is rarely full while there is more.
    pub(crate) fn leaves_more(&self, leased: &Leased) -> bool {
        let deliveries = &leased.deliveries;
        let is_half = deliveries.len() >= self.max.div_ceil(2);
        self.is_full(leased) || is_half && deliveries.iter().any(|one| one.key().is_some())
    }

    /// Sends the claim. An answer that shows something amiss is followed up at once: a missing
    /// queue is created, and an empty one leaves time to ask for wake-ups.
    pub(crate) async fn send(
        mut self,
        engine: Arc<dyn Engine>,
        request: LeaseRequest,
        metrics: QueueMetrics,
        tracer: Option<Arc<dyn Tracer>>,
    ) -> Fetched {
        let queue = request.queue.clone();
        let span = debug_span!(parent: None, "ezq.lease", %queue, max = self.max);
        self.sent = Instant::now();
        let measured = Since::now();
        let result = engine.lease(request).instrument(span).await;
        let count = result.as_ref().ok().map(|leased| leased.deliveries.len());
        metrics.claimed(measured, count);
        // An idle consumer polls for ever: claims that find nothing would be most of all spans.
        if let Some(tracer) = tracer
            && count != Some(0)
        {
            let answer = result.as_ref().map(|leased| &*leased.deliveries);
            tracer.receive(&Receiving::new(&queue, answer, self.sent.elapsed()));
        }

        let mut created = None;
        let mut wakeups = None;
        match &result {
            Err(error) if error.kind() == ErrorKind::QueueMissing => {
                created = Some(engine.ensure_queue(&queue).await);
            }
            Ok(leased) if self.asks_for_wakeups && leased.deliveries.is_empty() => {
                wakeups = engine.wakeups(&queue).await.ok().map(Wakeups::new);
            }
            _ => {}
        }
        Fetched::Leased(Box::new(Answer {
            claim: self,
            result,
            created,
            wakeups,
        }))
    }
}

impl Answer {
    /// The answer of an engine that panicked.
    pub(crate) fn panicked() -> Self {
        let claim = Claim {
            number: 0,
            sent: Instant::now(),
            max: 0,
            start: ClaimStart::Front,
            is_settled: false,
            is_keyless: false,
            is_early: false,
            has_returned: false,
            gone_back: None,
            asks_for_wakeups: false,
        };

        let error = Error::new(ErrorKind::Panicked, "the engine panicked while claiming");
        Self {
            claim,
            result: Err(error),
            created: None,
            wakeups: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Delivery, Receipt, Token};
    use crate::message::MessageId;
    use crate::message::headers::{self, Headers};

    fn leased(count: usize, headers: &Headers) -> Leased {
        let receipt = Receipt::new(MessageId::Number(1), Token::from_words([0; 3]));
        let delivery = Delivery::new(
            receipt,
            "{}".to_owned(),
            headers.clone(),
            chrono::DateTime::UNIX_EPOCH,
        );
        Leased::new(vec![delivery; count])
    }

    #[test]
    fn more_is_likely_behind_a_full_claim_and_behind_half_of_one_with_keys() {
        let claim = Claim {
            max: 8,
            ..Answer::panicked().claim
        };
        let plain = Headers::new();
        let mut keyed = Headers::new();
        keyed.insert(headers::KEY, "customer-1");

        assert!(claim.leaves_more(&leased(8, &plain)));
        assert!(!claim.leaves_more(&leased(7, &plain)));
        assert!(claim.leaves_more(&leased(4, &keyed)));
        assert!(!claim.leaves_more(&leased(3, &keyed)));
        assert!(!claim.is_full(&leased(4, &keyed)));
    }
}
