//! Runs a relay on what one claim has brought: one call, and one settlement for each delivery.

use std::sync::Arc;
use std::time::Duration;

use crate::delivery::attempt::Attempt;
use crate::dispatch::admission::StartGuard;
use crate::dispatch::batch_member::Member;
use crate::dispatch::batcher::run_in_order;
use crate::dispatch::dispatcher::Dispatcher;
use crate::dispatch::work::Work;
use crate::engine::Settle;
use crate::handler::Handler;
use crate::handler::invoke::Invoke;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{HandlerMark, HandlerName, Progress};

/// How many batches a relay's consumer holds at most: one is claimed, one read and one sent.
const AT_ONCE: usize = 3;

/// How a relay takes the events of its queue.
#[derive(Debug)]
pub(crate) struct RelayLimits {
    pub(crate) relay: HandlerName,
    /// How many events a batch has at most.
    pub(crate) size: usize,
    /// How long a batch that is not full gathers more.
    pub(crate) wait: Duration,
    /// How many batches are held.
    pub(crate) at_once: usize,
    /// Events of one ordering key may share a batch.
    pub(crate) shares_keys: bool,
}

impl Dispatcher {
    /// How a relay takes the events of a queue, if it is the only handler there and has no limit. The
    /// consumer handles so many deliveries at once, and `has_keys` says that its engine keeps the order of
    /// keys.
    pub(crate) fn relay_limits(
        &self,
        queue: &QueueName,
        concurrency: usize,
        has_keys: bool,
    ) -> Option<RelayLimits> {
        let relay = self.sole_relay(queue)?;
        let sink = relay.sink.as_ref()?;
        let batch = self.batches.get(&relay.name)?;
        if self.limits.contains_key(&relay.name) {
            return None;
        }

        // One that waits for its rate would only keep its events from others.
        let most = if relay.is_paced { 1 } else { AT_ONCE };
        Some(RelayLimits {
            relay: relay.name.clone(),
            size: batch.size.max(1),
            wait: batch.wait,
            at_once: most.min(concurrency),
            shares_keys: has_keys && sink.capabilities().ordered,
        })
    }

    /// The relay of a queue, if no other handler is there.
    fn sole_relay(&self, queue: &QueueName) -> Option<&Arc<Handler>> {
        match self.registry.of(queue) {
            [handler] if handler.sink.is_some() => Some(handler),
            _ => None,
        }
    }

    /// Runs the relay of a queue on deliveries in their order; one settlement each, as of
    /// [`dispatch`](Self::dispatch).
    pub(crate) async fn dispatch_together(
        &self,
        works: &[Work],
        start: StartGuard,
    ) -> Vec<Option<Settle>> {
        let Some(first) = works.first() else {
            return Vec::new();
        };
        let relay = self.sole_relay(&first.received.queue);
        let Some((relay, Invoke::Batch(invoke))) = relay.map(|relay| (relay, &relay.invoke)) else {
            return works.iter().map(|_| Some(Settle::Release)).collect();
        };

        let known: Vec<Progress> = works
            .iter()
            .map(|work| Progress::from_headers(&work.received.headers))
            .collect();
        let members = works.iter().zip(&known).map(|(work, known)| Member {
            attempt: Attempt {
                received: Arc::clone(&work.received),
                number: 1,
            },
            done: HandlerMark::done_after(known.0.get(&relay.name)),
            is_sole: true,
        });

        let runner = self.batch_runner(relay, invoke);
        let outcomes = run_in_order(runner, members.collect(), start, &first.admission).await;
        let ran = works.iter().zip(known).zip(outcomes);
        let settlements = ran.map(|((work, known), outcome)| {
            let outcomes = vec![(&**relay, outcome)];
            self.conclude(work, std::slice::from_ref(relay), known, outcomes)
        });
        settlements.collect()
    }
}
