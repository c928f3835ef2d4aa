//! Plays one sequence of operations on the engine and on the reference at once.

mod bulk;
mod letters;
mod receipts;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use ezq_core::engine::{
    Death, Delivery, Due, Engine, LeaseRequest, Outgoing, Position, PublishOutcome, Receipt,
};
use ezq_core::message::headers::{Headers, REDRIVEN};
use ezq_core::message::{MessageId, Progress, QueueName, Reason};
use tokio::time::Instant;

use super::operation::{Operation, Pick, QUEUES, WORKERS, When, Whose};
use super::reference::{Bounds, Message, Reference, Standing, Time, correlation};
use super::report::ModelReport;
use crate::Harness;
use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, Stage, number_in};

type Result<T> = std::result::Result<T, CaseError>;

/// The unit in which the model counts time. No sequence takes as long on a real clock, so the time that
/// it takes cannot be mistaken for time that the model let pass.
const HALF_HOUR: Duration = Duration::from_secs(30 * 60);
/// More messages than any queue holds.
const ALL: usize = 10_000;

pub(super) struct Play<'h> {
    stage: Stage<'h>,
    reference: Reference,
    /// The engine's time at the half hour 0.
    start: DateTime<Utc>,
    numbers: i64,
    /// Every receipt, by its number.
    receipts: Vec<(usize, Receipt)>,
    /// The numbers of the receipts that each worker holds.
    hands: [Vec<usize>; WORKERS],
    /// The numbers of the receipts that no worker holds any more.
    abandoned: Vec<usize>,
    /// The queues and places of all deliveries, from which bounds of claims are picked.
    places: Vec<(usize, Position, Standing)>,
    ids: [Vec<MessageId>; QUEUES],
    letter_ids: [Vec<MessageId>; QUEUES],
    report: &'h mut ModelReport,
}

impl<'h> Play<'h> {
    /// Plays a sequence in queues of its own, and compares everything that is left at its end.
    ///
    /// # Errors
    /// With the index of the operation whose answer differs from the reference's.
    pub(super) async fn run(
        harness: &'h dyn Harness,
        operations: &[Operation],
        report: &'h mut ModelReport,
    ) -> std::result::Result<(), (usize, CaseError)> {
        let mut play = Self::open(harness, report)
            .await
            .map_err(|error| (0, error))?;
        for (index, operation) in operations.iter().enumerate() {
            play.step(operation).await.map_err(|error| (index, error))?;
        }
        play.finish()
            .await
            .map_err(|error| (operations.len(), error))
    }

    async fn open(harness: &'h dyn Harness, report: &'h mut ModelReport) -> Result<Self> {
        let stage = Stage::open(harness).await?;
        stage.needs("delayed", |c| c.delayed)?;
        stage.needs("ordered", |c| c.ordered)?;
        stage.dead_letters()?;
        // A lease tells the engine's time. The process's own clock may differ from it.
        let probe = stage.fresh(HOLD).await?;
        stage
            .done(vec![(probe.receipt, crate::stage::ack())])
            .await?;
        Ok(Self {
            stage,
            reference: Reference::new(),
            start: probe.leased_at,
            numbers: 0,
            receipts: Vec::new(),
            hands: Default::default(),
            abandoned: Vec::new(),
            places: Vec::new(),
            ids: Default::default(),
            letter_ids: Default::default(),
            report,
        })
    }

    async fn step(&mut self, operation: &Operation) -> CaseResult {
        let started = Instant::now();
        // Before the engine acts, so that both stamp what happens with the same step.
        self.reference.begin_step();
        let effective = match operation {
            Operation::Publish(messages) => self.publish(messages).await,
            Operation::Lease {
                queue,
                worker,
                max,
                hours,
                before,
                after,
            } => {
                self.lease(*queue, *worker, *max, *hours, (*before, *after))
                    .await
            }
            Operation::Settle { queue, by, batch } => self.settle(*queue, *by, batch).await,
            Operation::Extend {
                queue,
                by,
                picks,
                hours,
            } => self.extend(*queue, *by, picks, *hours).await,
            Operation::Crash { worker } => {
                self.abandoned.append(&mut self.hands[*worker]);
                Ok(true)
            }
            Operation::Advance { hours } => self.advance(*hours).await,
            Operation::Cancel { queue, pick } => self.cancel(*queue, *pick).await,
            Operation::Reschedule { queue, pick, when } => {
                self.reschedule(*queue, *pick, *when).await
            }
            Operation::Redrive { queue, picks } => self.redrive(*queue, picks).await,
            Operation::Discard { queue, picks } => self.discard(*queue, picks).await,
            Operation::Purge { queue } => self.purge(*queue).await,
            Operation::Bulk { queue, what } => self.bulk(*queue, *what).await,
            Operation::Lose { queue } => self.lose(*queue).await,
            Operation::Look { queue } => self.look(*queue).await,
        }?;

        self.report.steps += usize::from(effective);
        // On a paused clock two steps would fall on one instant, and have no order.
        if Instant::now() == started {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Lets all messages fall due and leases them: none is lost, and none came back.
    async fn finish(mut self) -> CaseResult {
        for queue in 0..QUEUES {
            self.step(&Operation::Look { queue }).await?;
        }
        // Longer than every delay and lease that is drawn, so that all of it is due.
        self.step(&Operation::Advance { hours: 24 }).await?;
        for queue in 0..QUEUES {
            self.step(&Operation::Lease {
                queue,
                worker: 0,
                max: ALL,
                hours: 1,
                before: None,
                after: None,
            })
            .await?;
            self.step(&Operation::Look { queue }).await?;
        }
        self.stage.close().await;
        Ok(())
    }

    async fn publish(&mut self, messages: &[(usize, When)]) -> Result<bool> {
        let mut batch = Vec::new();
        for (queue, when) in messages {
            batch.push(self.outgoing(*queue, *when));
        }
        let outcomes = self.stage.outcomes(batch).await?;

        let first = self.numbers - i64::try_from(messages.len()).unwrap_or(0);
        let rows = messages.iter().zip(outcomes).zip(first..);
        for (place, (((queue, when), outcome), number)) in rows.enumerate() {
            let PublishOutcome::Stored(id) = outcome else {
                return Err(CaseError::Failed(format!(
                    "publishing answered {outcome:?}"
                )));
            };
            let due = self.reference.due(*when, Some((0, place)));
            self.ids[*queue].push(id.clone());
            self.reference
                .publish(*queue, number, Some(id), due, Progress::default());
            self.count("published");
        }
        Ok(true)
    }

    fn outgoing(&mut self, queue: usize, when: When) -> Outgoing {
        let number = self.numbers;
        self.numbers += 1;
        let mut message = self.stage.message(number);
        message
            .headers
            .insert("correlation-id", correlation(number));
        message.queue(self.queue(queue)).due(self.due(when))
    }

    fn queue(&self, queue: usize) -> QueueName {
        match queue {
            0 => self.stage.queue.clone(),
            1 => self.stage.other.clone(),
            _ => self.stage.missing.clone(),
        }
    }

    fn due(&self, when: When) -> Due {
        match when {
            When::Now => Due::Now,
            When::After { hours } => Due::After(span(2 * hours)),
            When::At { hours } => {
                // The milliseconds keep the times of two steps apart.
                let step = i64::try_from(self.reference.step()).unwrap_or(0);
                let half_hour = self.reference.now().half_hour + 2 * hours + 1;
                Due::At(self.time(half_hour) + TimeDelta::milliseconds(step))
            }
        }
    }

    /// The beginning of a half hour on the engine's clock.
    fn time(&self, half_hour: i64) -> DateTime<Utc> {
        self.start + TimeDelta::minutes(30 * half_hour)
    }

    /// Whether a time is the wanted one, but for the real time that the sequence takes. That is less
    /// than a quarter of an hour.
    fn is_about(&self, seen: DateTime<Utc>, wanted: Time) -> bool {
        (seen - self.time(wanted.half_hour)).abs() < TimeDelta::minutes(15)
    }

    async fn lease(
        &mut self,
        queue: usize,
        worker: usize,
        max: usize,
        hours: i64,
        (before, after): (Option<Pick>, Option<Pick>),
    ) -> Result<bool> {
        let here = self.places.iter().filter(|(of, ..)| *of == queue);
        let here: Vec<(Position, Standing)> = here.map(|(_, at, of)| (at.clone(), *of)).collect();
        let place = |pick: Option<Pick>| pick.and_then(|pick| picked(&here, pick)).cloned().unzip();
        let (before, before_in_reference) = place(before);
        let (after, after_in_reference) = place(after);
        let bounds = Bounds {
            before: before_in_reference,
            after: after_in_reference,
        };
        let request = LeaseRequest::new(self.queue(queue), max, span(2 * hours))
            .keys(max)
            .before(before)
            .after(after);
        let by = Whose::Worker(worker);
        self.reference.act_as(by.client());
        let leased = self.client(by).lease(request).await?;

        let numbers: Vec<i64> = leased
            .deliveries
            .iter()
            .map(|d| number_in(&d.body))
            .collect();
        self.reference.lease(queue, &numbers, max, bounds)?;
        if leased.deliveries.is_empty() {
            let next = self.reference.next_due(queue, bounds);
            self.check_wait(leased.next_due, next)?;
            self.count("found nothing to lease");
        }

        for (delivery, number) in leased.deliveries.into_iter().zip(numbers) {
            self.take(queue, worker, hours, number, delivery)?;
        }
        Ok(true)
    }

    fn client(&self, by: Whose) -> &dyn Engine {
        match by.client() {
            0 => &*self.stage.engine,
            _ => &*self.stage.second,
        }
    }

    fn check_wait(&self, seen: Option<Duration>, next: Option<Time>) -> CaseResult {
        let now = self.reference.now().half_hour;
        let wanted = next.map(|time| span(time.half_hour - now));
        // Half an hour is the model's unit. A difference below half of that is the real time
        // that the sequence took.
        let right = match (seen, wanted) {
            (Some(seen), Some(wanted)) => seen.abs_diff(wanted) < HALF_HOUR / 2,
            // The contract lets an engine answer nothing here.
            (seen, _) => seen.is_none(),
        };
        check!(
            right,
            "the next message falls due after {wanted:?}, the engine says {seen:?}"
        );
        Ok(())
    }

    fn take(
        &mut self,
        queue: usize,
        worker: usize,
        hours: i64,
        number: i64,
        delivery: Delivery,
    ) -> CaseResult {
        let receipt = self.receipts.len();
        let Some(wanted) = self.reference.deliver(number, receipt, hours) else {
            return Err(CaseError::Failed(format!(
                "nobody published message {number}"
            )));
        };
        self.compare_delivery(&delivery, &wanted)?;

        if wanted.id.is_none() {
            let id = delivery.receipt.message_id();
            self.reference.learn_id(number, id);
            self.ids[queue].push(id.clone());
        }
        self.count(match (wanted.deliveries, wanted.returned) {
            (1, _) => "delivered first",
            (n, returned) if n == returned + 1 => "delivered after a return",
            _ => "delivered after an expiry",
        });

        let place = Standing {
            due: wanted.stood,
            number,
        };
        self.places.push((queue, delivery.position(), place));
        self.hands[worker].push(receipt);
        self.receipts.push((queue, delivery.receipt));
        Ok(())
    }

    fn compare_delivery(&self, delivery: &Delivery, wanted: &Message) -> CaseResult {
        let number = wanted.number;
        let id = delivery.receipt.message_id();
        check_eq!(
            id,
            wanted.id.as_ref().unwrap_or(id),
            "the id of message {number}"
        );
        check_eq!(
            delivery.deliveries,
            wanted.deliveries,
            "deliveries of message {number}"
        );

        let (had_died, headers) = apart(&delivery.headers);
        check_eq!(
            had_died,
            wanted.had_died,
            "what message {number} had died of"
        );
        check_eq!(headers, wanted.headers(), "headers of message {number}");

        let times = [
            ("due", delivery.due, wanted.stood),
            ("stored", delivery.enqueued_at, wanted.stored),
            ("leased", delivery.leased_at, self.reference.now()),
        ];
        for (what, seen, wanted) in times {
            let about = self.time(wanted.half_hour);
            check!(
                self.is_about(seen, wanted),
                "message {number} was {what} at {about}, the engine says {seen}"
            );
        }
        Ok(())
    }

    async fn advance(&mut self, hours: i64) -> Result<bool> {
        self.stage.harness.advance(span(2 * hours)).await;
        self.reference.advance(hours);
        Ok(true)
    }

    async fn cancel(&mut self, queue: usize, pick: Pick) -> Result<bool> {
        let Some(id) = picked(&self.ids[queue], pick).cloned() else {
            return Ok(false);
        };
        let seen = self.stage.engine.cancel(&self.queue(queue), &id).await?;
        let wanted = self.reference.cancel(queue, &id);
        check_eq!(seen, wanted, "whether message {id} could be taken back");
        self.count(if wanted {
            "cancelled"
        } else {
            "could not cancel"
        });
        Ok(true)
    }

    async fn reschedule(&mut self, queue: usize, pick: Pick, when: When) -> Result<bool> {
        let Some(id) = picked(&self.ids[queue], pick).cloned() else {
            return Ok(false);
        };
        let due = self.due(when);

        let seen = self
            .stage
            .engine
            .reschedule(&self.queue(queue), &id, due)
            .await?;
        let wanted = self.reference.reschedule(queue, &id, when);
        check_eq!(seen, wanted, "whether message {id} could be moved");
        self.count(if wanted { "moved" } else { "could not move" });
        Ok(true)
    }

    async fn lose(&mut self, queue: usize) -> Result<bool> {
        let lost = self
            .stage
            .harness
            .lose_newest(self.queue(queue).as_str())
            .await;
        let Some(body) = lost else { return Ok(false) };
        let number = number_in(&body);
        check!(
            self.reference.lose(number),
            "message {number} was lost, and is not in the queue"
        );
        self.count("lost");
        Ok(true)
    }

    async fn purge(&mut self, queue: usize) -> Result<bool> {
        let seen = self.stage.engine.purge(&self.queue(queue)).await?;
        check_eq!(seen, self.reference.purge(queue), "messages purged");
        self.count("purged");
        Ok(true)
    }

    fn count(&mut self, what: &'static str) {
        *self.report.counts.entry(what).or_default() += 1;
    }
}

/// Counts back from the last, and begins there again after the first.
fn picked<T>(from: &[T], pick: Pick) -> Option<&T> {
    let back = pick.checked_rem(from.len())?;
    from.iter().rev().nth(back)
}

fn span(half_hours: i64) -> Duration {
    HALF_HOUR * u32::try_from(half_hours).unwrap_or(0)
}

/// Separates the reason that a redriven message had died of from its other headers.
fn apart(headers: &Headers) -> (Option<Reason>, Headers) {
    let mut entries = headers.as_object().clone();
    let death = entries.remove(REDRIVEN).map(|death| Death::read(&death));
    (
        death.and_then(|death| death.reason),
        Headers::from_value(entries.into()),
    )
}
