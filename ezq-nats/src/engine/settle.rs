//! Settling: what a delivery leaves behind is stored first, and then the server is told that the message is
//! handled.
//!
//! There are two steps, so a worker that dies between them leaves both: the event runs again, and its copy
//! runs as well. What is lost by a worker that dies before is nothing. A settlement that is sent again stores
//! nothing twice: everything it stores has an id of the event and the attempt.

use std::sync::Arc;

use ezq_core::engine::{Receipt, Settle, SettleOutcome};
use ezq_core::message::{Progress, QueueName};
use ezq_core::{ErrorKind, Result};
use foldhash::{HashSet, HashSetExt as _};

use super::keeper::HANDLED;
use super::leases::{Key, Taken, key_of};
use super::names::{Names, Wait};
use super::publish::Parcel;
use super::server_clock::later;
use super::state::State;
use super::wire::{Stored, schedule};

/// A settlement that is under way.
struct Begun {
    /// Its place among the settlements of the call.
    place: usize,
    key: Key,
    message: Arc<Taken>,
    /// How many of the messages to be stored are its own.
    parcels: usize,
}

impl State {
    pub(crate) async fn settle(
        &self,
        queue: &QueueName,
        settlements: Vec<(Receipt, Settle)>,
    ) -> Result<Vec<SettleOutcome>> {
        let mut outcomes: Vec<Option<SettleOutcome>> = Vec::new();
        outcomes.resize_with(settlements.len(), || None);
        let mut open: Vec<(usize, Receipt, Settle)> = settlements
            .into_iter()
            .enumerate()
            .map(|(place, (receipt, settle))| (place, receipt, settle))
            .collect();

        // Of several settlements of one delivery the first that does not fail counts, so each goes after
        // those before it are decided.
        while !open.is_empty() {
            let mut seen = HashSet::with_capacity(open.len());
            let is_first: Vec<bool> = open
                .iter()
                .map(|(_, receipt, _)| seen.insert(receipt))
                .collect();
            // None is moved if all are of different deliveries, as they nearly always are.
            let mut is_first = is_first.into_iter();
            let later: Vec<_> = open
                .extract_if(.., |_| is_first.next() == Some(false))
                .collect();
            let round = std::mem::replace(&mut open, later);
            for (place, outcome) in self.settle_round(queue, round).await {
                if let Some(known) = outcomes.get_mut(place) {
                    *known = Some(outcome);
                }
            }
        }
        // Every settlement was in one round.
        Ok(outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or(SettleOutcome::LeaseLost))
            .collect())
    }

    /// Settles deliveries of which no two are the same.
    async fn settle_round(
        &self,
        queue: &QueueName,
        round: Vec<(usize, Receipt, Settle)>,
    ) -> Vec<(usize, SettleOutcome)> {
        let mut outcomes = Vec::with_capacity(round.len());
        let mut begun = Vec::with_capacity(round.len());
        let mut parcels = Vec::new();
        let mut receipts = Vec::with_capacity(round.len());
        for (place, receipt, settle) in round {
            let Some(key) = key_of(queue, &receipt) else {
                let error = receipt.foreign_to(self.capabilities.name);
                outcomes.push((place, SettleOutcome::Failed { receipt, error }));
                continue;
            };
            let Some(message) = self
                .leases
                .begin(&key)
                .filter(|message| message.id == *receipt.message_id())
            else {
                outcomes.push((place, SettleOutcome::LeaseLost));
                continue;
            };

            let own = self.left_behind(queue, &key, &message, receipt.covers(), settle);
            begun.push(Begun {
                place,
                key,
                message,
                parcels: own.len(),
            });
            parcels.extend(own);
            receipts.push(receipt);
        }

        let stored = self.stored(&begun, parcels).await;
        let told = self.tell(&begun, &stored).await;

        let settled = begun.iter().zip(&told).filter(|(_, result)| result.is_ok());
        self.leases.remove(settled.map(|(begun, _)| &begun.key));
        for ((begun, receipt), result) in begun.into_iter().zip(receipts).zip(told) {
            let outcome = match result {
                Ok(true) => SettleOutcome::Done,
                Ok(false) => SettleOutcome::LeaseLost,
                Err(error) => {
                    self.leases.give_up(&begun.key);
                    SettleOutcome::Failed { receipt, error }
                }
            };
            outcomes.push((begun.place, outcome));
        }
        outcomes
    }

    /// Stores what settlements leave behind; one result for each settlement.
    async fn stored(&self, begun: &[Begun], parcels: Vec<Result<Parcel>>) -> Vec<Result<()>> {
        if parcels.is_empty() {
            return begun.iter().map(|_| Ok(())).collect();
        }
        let mut results = match self.store(parcels).await {
            Ok(results) => results.into_iter(),
            Err(error) => return begun.iter().map(|_| Err(error.without_source())).collect(),
        };
        let of_each = begun.iter().map(|one| {
            let own: Vec<_> = results.by_ref().take(one.parcels).collect();
            own.into_iter().try_for_each(|stored| stored.map(drop))
        });
        of_each.collect()
    }

    /// Tells the server which messages are handled. A delivery whose lease ended meanwhile is left alone: the
    /// answer for it is `false`.
    async fn tell(&self, begun: &[Begun], stored: &[Result<()>]) -> Vec<Result<bool>> {
        let live = self.leases.are_live(begun.iter().map(|one| &one.key));
        let mut handled: Vec<&Begun> = begun
            .iter()
            .zip(stored)
            .zip(&live)
            .filter(|((_, stored), live)| stored.is_ok() && **live)
            .map(|((one, _), _)| one)
            .collect();
        // A message that leaves from within the stream costs the server more than the first one.
        handled.sort_by_key(|one| one.key.1);
        let acks = handled.iter().map(|one| one.message.ack.clone()).collect();

        let told = self.say(acks, HANDLED).await;

        let results = stored.iter().zip(live).map(|(stored, live)| match stored {
            Err(error) => Err(error.without_source()),
            Ok(()) if !live => Ok(false),
            Ok(()) => match &told {
                Ok(()) => Ok(true),
                // The message is gone with its stream.
                Err(error) if error.kind() == ErrorKind::QueueMissing => Ok(false),
                Err(error) => Err(error.without_source()),
            },
        });
        results.collect()
    }

    /// The messages that a settlement stores.
    fn left_behind(
        &self,
        queue: &QueueName,
        key: &Key,
        message: &Taken,
        covers: u32,
        settle: Settle,
    ) -> Vec<Result<Parcel>> {
        let leaves_nothing = matches!(settle, Settle::Ack { .. } | Settle::Discard);
        if leaves_nothing && settle.outgoing().is_empty() {
            return Vec::new();
        }
        let names = self.names(queue);
        let [sequence, delivered, _] = key.1;
        let stream = names.stream();
        let outgoing = settle.outgoing().iter().cloned().enumerate();
        let mut parcels: Vec<_> = outgoing
            .map(|(n, event)| self.parcel(event, &format!("{stream}:{sequence}:{delivered}:{n}")))
            .collect();

        // The body of an immutable message goes along, with what has changed beside it.
        let copy = match settle {
            Settle::Retry {
                after, progress, ..
            } => Some(self.again(queue, &names, message, covers, &progress, after)),
            Settle::Release => {
                let nothing = Progress::default();
                let at_once = std::time::Duration::ZERO;
                Some(self.again(queue, &names, message, covers, &nothing, at_once))
            }
            Settle::DeadLetter {
                reason, progress, ..
            } => Some(self.letter(queue, &names, message, &progress, &reason)),
            _ => None,
        };
        parcels.extend(copy.map(Ok));
        parcels
    }

    /// The message for another attempt.
    fn again(
        &self,
        queue: &QueueName,
        names: &Names,
        message: &Taken,
        covers: u32,
        progress: &Progress,
        after: std::time::Duration,
    ) -> Parcel {
        let mut own = message.headers.clone();
        own.give_back(progress);
        own.covered(covers);
        let due = (!after.is_zero()).then(|| later(self.clock.now(), after));
        let stored = Stored {
            headers: own,
            id: Some(message.id.clone()),
            stored_at: Some(message.stored_at),
            due,
            deliveries: message.deliveries,
            died_at: None,
        };

        let attempt = format!("{}-{}", message.id, message.deliveries);
        let mut headers = stored.write(&format!("again:{attempt}"));
        let subject = match due {
            None => names.now(),
            Some(due) => {
                schedule(&mut headers, due, &names.due());
                names.wait(Wait::Again, &attempt)
            }
        };
        Parcel {
            queue: queue.clone(),
            subject,
            headers,
            payload: message.payload.clone(),
        }
    }
}
