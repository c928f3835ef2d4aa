//! The fastest path: one transaction claims a batch, handles it and commits, without a lease.
//!
//! It is for a queue whose only handler takes batches and a transaction, while there is a backlog.
//! Such a claim counts no delivery, so it is taken only after a leased batch has succeeded, and
//! whatever is out of the ordinary is left to the leased path: the transaction is rolled back, and
//! nothing has happened.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::consumer::intake;
use crate::consumer::stop::ANSWER;
use crate::delivery::lease::Lease;
use crate::dispatch::batch_attempt::{self, Member};
use crate::dispatch::batcher::Means;
use crate::dispatch::slots::Slots;
use crate::engine::Delivery;
use crate::error::error_chain;
use crate::event::is_control;
use crate::logging::warn;
use crate::message::headers;
use crate::message::queue_name::QueueName;
use crate::message::settlement::Progress;
use crate::publish::transaction::Transaction;
use crate::shared::Shared;

/// A run on the fastest path.
pub(crate) struct Direct {
    pub(crate) app: Arc<Shared>,
    pub(crate) queue: QueueName,
    pub(crate) slots: Arc<Slots>,
    /// Nothing but its token is used: locks hold what the transaction claimed.
    pub(crate) lease: Arc<Lease>,
}

/// A lease that only a cancellation ends.
pub(crate) fn endless() -> Arc<Lease> {
    Arc::new(Lease::new(Instant::now(), Duration::MAX))
}

impl Direct {
    /// Claims and handles a batch; how many events were handled, and whether there may be more.
    /// `None` when the leased path is to see what there is.
    pub(crate) async fn run(&self) -> Option<(usize, bool)> {
        let (means, size) = self.app.dispatcher.sole_batch(&self.queue)?;
        let _turn = match means.turns {
            None => None,
            Some(turns) => tokio::select! {
                biased;
                turn = turns.acquire() => turn.ok(),
                // Nothing new begins.
                () = self.slots.stopped() => return None,
            },
        };
        let services = &self.app.services;
        let begun = tokio::select! {
            biased;
            () = self.slots.stopped() => return None,
            begun = Transaction::begin(services, &self.queue, means.timeout) => begun,
        };
        let transaction = match begun {
            Ok(transaction) => Arc::new(transaction),
            Err(error) => {
                debug!(queue = %self.queue, error = error_chain(&error), "no claim in a transaction");
                return None;
            }
        };
        let handled = self.handle(means, size, &transaction).await;
        transaction.abandon().await;
        handled
    }

    async fn handle(
        &self,
        means: Means<'_>,
        size: usize,
        transaction: &Arc<Transaction>,
    ) -> Option<(usize, bool)> {
        let claiming = tokio::select! {
            biased;
            // Nothing new begins.
            () = self.slots.stopped() => return None,
            claiming = self.slots.claiming() => claiming,
        };
        if !self.slots.is_proven() {
            return None;
        }
        let claimed = tokio::select! {
            biased;
            claimed = transaction.claim(size) => claimed,
            () = self.waits_no_longer() => {
                warn!(queue = %self.queue, "a claim is not answered: it is given up");
                return None;
            }
        };
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(error) => {
                debug!(queue = %self.queue, error = error_chain(&error), "no claim in a transaction");
                return None;
            }
        };
        let count = claimed.len();
        let members: Option<Vec<Member>> = claimed
            .into_iter()
            .map(|delivery| self.ordinary(means, delivery))
            .collect();
        if members.is_none() {
            // What came after it is not to be handled before a leased batch was.
            self.slots.prove(false);
        }
        drop(claiming);
        let members = members.filter(|members| !members.is_empty())?;
        let done = batch_attempt::run_claimed(means, &members, transaction).await;
        if !done {
            // Until a leased one succeeds: another that runs beside this one proves nothing.
            self.slots.prove(false);
            let handler = &means.handler.name;
            warn!(queue = %self.queue, %handler, count, "a batch failed: its events are leased");
            return None;
        }
        members
            .iter()
            .for_each(|member| self.app.services.notices.handled(&member.received));
        Some((count, count == size))
    }

    /// Ends when a stopped consumer has waited for an answer long enough.
    async fn waits_no_longer(&self) {
        self.slots.stopped().await;
        sleep(ANSWER).await;
    }

    /// A delivery that the handler is to have, if nothing about it is out of the ordinary.
    fn ordinary(&self, means: Means<'_>, mut delivery: Delivery) -> Option<Member> {
        let fresh = delivery.deliveries == 0
            && delivery.headers.value(headers::KEY).is_none()
            && Progress::from_headers(&delivery.headers).0.is_empty();
        delivery.deliveries = 1;
        let (lease, codecs) = (Arc::clone(&self.lease), &self.app.services.codecs);
        let work = intake::read(codecs, &self.queue, delivery, lease, &self.slots)
            .ok()
            .filter(|_| fresh)?;
        let envelope = &work.received.envelope;
        let takers = self.app.dispatcher.registry.find(&self.queue, envelope);
        if is_control(envelope.event_type())
            || !takers.iter().any(|taker| taker.name == means.handler.name)
        {
            return None;
        }
        let (received, done) = (work.received, batch_attempt::first_time());
        Some(Member {
            received,
            attempt: 1,
            done,
            is_sole: true,
        })
    }
}
