//! Operations on receipts: settling and renewing, with valid and with void ones.

use ezq_core::ErrorKind;
use ezq_core::engine::{ExtendOutcome, Receipt, Settle, SettleOutcome};
use ezq_core::message::{HandlerMark, HandlerName, Progress, Reason, ReasonKind};

use super::super::operation::{How, MISSING, Pick, Settlement, When, Whose};
use super::super::reference::Ending;
use super::{Play, Result, picked, span};

impl Play<'_> {
    /// The numbers of the picked receipts. A worker uses its receipts of the queue. A zombie uses
    /// receipts of any queue.
    fn pick_receipts(&self, queue: usize, by: Whose, picks: &[Pick]) -> Vec<usize> {
        let held: Vec<usize> = match by {
            Whose::Zombie => self.abandoned.clone(),
            Whose::Worker(worker) => {
                let hand = self.hands[worker].iter().copied();
                hand.filter(|receipt| self.receipts[*receipt].0 == queue)
                    .collect()
            }
        };
        picks
            .iter()
            .filter_map(|pick| picked(&held, *pick).copied())
            .collect()
    }

    pub(super) async fn settle(
        &mut self,
        queue: usize,
        by: Whose,
        batch: &[Settlement],
    ) -> Result<bool> {
        let picks: Vec<Pick> = batch.iter().map(|settlement| settlement.pick).collect();
        let picked = self.pick_receipts(queue, by, &picks);
        self.reference.act_as(by.client());
        let mut settlements = Vec::new();
        let mut wanted = Vec::new();
        for (settlement, receipt) in batch.iter().zip(&picked) {
            // Before the settlement draws numbers for its events: the reference must draw the same.
            let numbers = self.numbers;
            let settle = self.settlement(settlement);
            settlements.push((self.receipts[*receipt].1.clone(), settle));
            wanted.push(self.expect(queue, *receipt, settlement, numbers));
        }
        let outcomes = self
            .client(by)
            .settle(&self.queue(queue), settlements)
            .await?;
        check_eq!(outcomes.len(), wanted.len(), "outcomes of one settle");

        for ((outcome, wanted), receipt) in outcomes.into_iter().zip(wanted).zip(&picked) {
            let seen = self.ending(&outcome, *receipt);
            check!(
                seen == Some(wanted),
                "expected {wanted:?}, the engine answers {outcome:?}"
            );
            // A settlement that failed leaves the lease as it is, so the worker keeps the receipt.
            if wanted != Ending::Failed {
                self.abandon(by, *receipt);
            }
            self.count(match wanted {
                Ending::Done => "settled",
                Ending::LeaseLost => "settled with a void receipt",
                Ending::Failed => "could not settle",
            });
        }
        Ok(!picked.is_empty())
    }

    fn settlement(&mut self, settlement: &Settlement) -> Settle {
        let progress = self.progress(settlement);
        let targets = settlement.outgoing.iter();
        let outgoing = targets
            .map(|queue| self.outgoing(*queue, When::Now))
            .collect();
        match settlement.how {
            How::Ack => Settle::Ack { outgoing },
            How::Retry { hours } => Settle::Retry {
                after: span(2 * hours),
                progress,
                outgoing,
            },
            How::Bury => Settle::DeadLetter {
                reason: self.reason(),
                progress,
                outgoing,
            },
            How::Release => Settle::Release,
        }
    }

    /// Settles on the reference. The events that leave with the settlement have the numbers from
    /// `first` on.
    fn expect(
        &mut self,
        queue: usize,
        receipt: usize,
        settlement: &Settlement,
        first: i64,
    ) -> Ending {
        let impossible = settlement.outgoing.contains(&MISSING);
        if impossible && self.reference.holds(queue, receipt) {
            return Ending::Failed;
        }

        let progress = self.progress(settlement);
        let reason = self.reason();
        let ending = self
            .reference
            .settle(queue, receipt, settlement.how, &progress, reason);
        if ending == Ending::Done {
            for (index, (target, number)) in settlement.outgoing.iter().zip(first..).enumerate() {
                let due = self.reference.due(When::Now, Some((receipt, index)));
                self.reference
                    .publish(*target, number, None, due, Progress::default());
                self.count("published with a settlement");
            }
        }
        ending
    }

    fn ending(&self, outcome: &SettleOutcome, receipt: usize) -> Option<Ending> {
        match outcome {
            SettleOutcome::Done => Some(Ending::Done),
            SettleOutcome::LeaseLost => Some(Ending::LeaseLost),
            SettleOutcome::Failed {
                receipt: back,
                error,
            } => {
                let right =
                    *back == self.receipts[receipt].1 && error.kind() == ErrorKind::QueueMissing;
                right.then_some(Ending::Failed)
            }
            _ => None,
        }
    }

    fn abandon(&mut self, by: Whose, receipt: usize) {
        if let Whose::Worker(worker) = by
            && let Some(index) = self.hands[worker].iter().position(|held| *held == receipt)
        {
            self.hands[worker].remove(index);
            self.abandoned.push(receipt);
        }
    }

    fn progress(&self, settlement: &Settlement) -> Progress {
        let attempts = u32::try_from(self.reference.step()).unwrap_or(0);
        let marks = settlement.marks.iter().map(|(n, state)| {
            let mark = HandlerMark::new(*state).attempts(attempts).errors(vec![]);
            (HandlerName::from(format!("model::h{n}").as_str()), mark)
        });
        marks.collect()
    }

    fn reason(&self) -> Reason {
        let error = format!("given up in step {}", self.reference.step());
        Reason::new(ReasonKind::Fatal, error, 1)
    }

    pub(super) async fn extend(
        &mut self,
        queue: usize,
        by: Whose,
        picks: &[Pick],
        hours: i64,
    ) -> Result<bool> {
        let picked = self.pick_receipts(queue, by, picks);
        let receipts: Vec<Receipt> = picked
            .iter()
            .map(|receipt| self.receipts[*receipt].1.clone())
            .collect();
        let ttl = span(2 * hours);
        let outcomes = self
            .client(by)
            .extend(&self.queue(queue), &receipts, ttl)
            .await?;
        check_eq!(outcomes.len(), picked.len(), "outcomes of one extend");

        for (seen, receipt) in outcomes.into_iter().zip(&picked) {
            let wanted = if self.reference.extend(queue, *receipt, hours) {
                ExtendOutcome::Extended
            } else {
                ExtendOutcome::LeaseLost
            };
            check_eq!(seen, wanted, "what an extension answers");
            self.count(match wanted {
                ExtendOutcome::Extended => "extended",
                _ => "extended with a void receipt",
            });
        }
        Ok(!picked.is_empty())
    }
}
