//! The stage of a case: two clients of one store, fresh queues, and the steps that cases share.
//! The steps check what holds everywhere, such as one outcome per message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ezq_core::ErrorKind;
use ezq_core::engine::{
    Capabilities, DeadLetters, Delivery, Due, Engine, EventCopy, ExtendOutcome, LeaseRequest,
    Leased, Outgoing, Position, PublishOutcome, QueueStats, Receipt, Settle, SettleOutcome,
};
use ezq_core::message::headers::{Headers, KEY};
use ezq_core::message::{HandlerName, MessageId, Progress, QueueName, Reason, ReasonKind};

use crate::Harness;
use crate::error::{CaseError, CaseResult};

type Result<T> = std::result::Result<T, CaseError>;

/// A lease that must hold through the case.
pub(crate) const HOLD: Duration = Duration::from_secs(60);
/// A lease that must run out.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
/// Covers what engines round, and by how much two machines' clocks drift apart during a case.
const MARGIN: Duration = Duration::from_millis(20);

pub(crate) struct Stage<'h> {
    pub(crate) harness: &'h dyn Harness,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) second: Arc<dyn Engine>,
    pub(crate) queue: QueueName,
    /// A second queue, for events that leave with a settlement.
    pub(crate) other: QueueName,
    /// A queue that is never created.
    pub(crate) missing: QueueName,
}

impl<'h> Stage<'h> {
    pub(crate) async fn open(harness: &'h dyn Harness) -> Result<Self> {
        let name = unique_name();
        let stage = Self {
            harness,
            engine: harness.engine().await,
            second: harness.second().await,
            queue: QueueName::new(&harness.queue_name(name.clone()))?,
            other: QueueName::new(&harness.queue_name(format!("{name}_b")))?,
            missing: QueueName::new(&harness.queue_name(format!("{name}_c")))?,
        };
        // By the first client only: the second must find a queue that it did not create itself.
        stage.engine.ensure_queue(&stage.queue).await?;
        stage.engine.ensure_queue(&stage.other).await?;
        Ok(stage)
    }

    pub(crate) async fn close(&self) {
        self.harness.discard(&self.queue).await;
        self.harness.discard(&self.other).await;
    }

    /// Skips the case unless the engine has a capability.
    pub(crate) fn needs(&self, what: &str, has: fn(&Capabilities) -> bool) -> CaseResult {
        if has(self.engine.capabilities()) {
            return Ok(());
        }
        let why = format!("the engine does not offer `{what}`");
        Err(CaseError::Skipped(why))
    }

    /// The engine's dead letters; skips the case if it keeps none.
    pub(crate) fn dead_letters(&self) -> Result<&dyn DeadLetters> {
        self.engine
            .dead_letters()
            .ok_or_else(|| CaseError::Skipped("the engine keeps no dead letters".to_owned()))
    }

    /// The copies that are kept of an event; skips the case if the engine cannot tell.
    pub(crate) async fn history(&self, event_id: &str) -> Result<Vec<EventCopy>> {
        match self.engine.history(event_id, Some(&self.queue)).await {
            Ok(history) => Ok(history.copies),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let why = "the engine tells no event's history".to_owned();
                Err(CaseError::Skipped(why))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The only copy of an event.
    pub(crate) async fn copy(&self, event_id: &str) -> Result<EventCopy> {
        let mut copies = self.history(event_id).await?;
        match (copies.pop(), copies.is_empty()) {
            (Some(copy), true) => Ok(copy),
            (found, _) => {
                let what = format!("expected one copy of `{event_id}`, got {found:?}, {copies:?}");
                Err(CaseError::Failed(what))
            }
        }
    }

    /// An event with an id, as ezq writes it.
    pub(crate) fn event(&self, event_id: &str) -> Outgoing {
        let body = format!(
            r#"{{"specversion":"1.0","id":"{event_id}","source":"/suite","type":"shop.paid"}}"#
        );
        self.text(body)
    }

    /// Publishes an event and leases it.
    pub(crate) async fn fresh_event(&self, event_id: &str) -> Result<Delivery> {
        self.publish(vec![self.event(event_id)]).await?;
        self.take(HOLD).await
    }

    /// Publishes a message that is not due during the case, and checks that it gets the id of a lost one.
    pub(crate) async fn publish_in_place_of(&self, n: i64, id: &MessageId) -> Result<MessageId> {
        let message = self.message(n).due(Due::After(HOLD));
        let new = self.publish(vec![message]).await?.remove(0);
        check_eq!(
            new.to_string(),
            id.to_string(),
            "the id that is issued again"
        );
        Ok(new)
    }

    pub(crate) fn message(&self, n: i64) -> Outgoing {
        self.text(format!(r#"{{"n":{n}}}"#))
    }

    /// A message with an ordering key.
    pub(crate) fn with_key(&self, key: &str, n: i64) -> Outgoing {
        let mut message = self.message(n);
        message.headers.insert(KEY, key);
        message
    }

    pub(crate) fn text(&self, body: impl Into<String>) -> Outgoing {
        Outgoing::new(self.queue.clone(), body.into(), Headers::new())
    }

    /// A message to the other queue, as a handler returns it.
    pub(crate) fn outgoing(&self, n: i64) -> Outgoing {
        self.message(n).queue(self.other.clone())
    }

    /// Publishes messages of which none may be refused. Returns their ids.
    pub(crate) async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<MessageId>> {
        let outcomes = self.outcomes(messages).await?;
        outcomes
            .into_iter()
            .map(|outcome| match outcome {
                PublishOutcome::Stored(id) => Ok(id),
                other => Err(CaseError::Failed(format!("publishing answered {other:?}"))),
            })
            .collect()
    }

    /// Publishes messages. Returns an outcome for each.
    pub(crate) async fn outcomes(&self, messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>> {
        let count = messages.len();
        let outcomes = self.engine.publish(messages).await?;
        check_eq!(outcomes.len(), count, "outcomes of one publish");
        Ok(outcomes)
    }

    /// Publishes messages with the bodies `{"n":..}` in one batch.
    pub(crate) async fn publish_numbers(&self, numbers: &[i64]) -> Result<Vec<MessageId>> {
        let batch = numbers.iter().map(|n| self.message(*n)).collect();
        self.publish(batch).await
    }

    pub(crate) async fn request(&self, request: LeaseRequest) -> Result<Leased> {
        let max = request.max;
        let leased = self.engine.lease(request).await?;
        let count = leased.deliveries.len();
        check!(count <= max, "asked for {max} messages, got {count}");
        // Rows come back from a claim in any order, and a consumer relies on theirs.
        let places = leased.deliveries.iter().map(Delivery::position);
        check!(places.is_sorted(), "one call's deliveries are out of order");
        Ok(leased)
    }

    pub(crate) async fn lease(&self, max: usize, ttl: Duration) -> Result<Vec<Delivery>> {
        Ok(self.request(self.ask(max, ttl)).await?.deliveries)
    }

    pub(crate) async fn lease_before(&self, place: Position) -> Result<Vec<Delivery>> {
        let request = self.ask(100, HOLD).before(place);
        Ok(self.request(request).await?.deliveries)
    }

    pub(crate) async fn lease_after(
        &self,
        after: &Position,
        before: Option<&Position>,
        max: usize,
    ) -> Result<Vec<Delivery>> {
        let request = self
            .ask(max, HOLD)
            .after(after.clone())
            .before(before.cloned());
        Ok(self.request(request).await?.deliveries)
    }

    /// What the second client leases.
    pub(crate) async fn lease_second(&self, max: usize, ttl: Duration) -> Result<Vec<Delivery>> {
        Ok(self.second.lease(self.ask(max, ttl)).await?.deliveries)
    }

    /// The client by which what the second one leased is settled. Receipts that are fenced by a clock are
    /// those of the client that leased; all others are checked by the store.
    pub(crate) fn holder(&self) -> &Arc<dyn Engine> {
        if self.engine.capabilities().fenced_by_clock {
            &self.second
        } else {
            &self.engine
        }
    }

    /// Settles what the second client has, with a receipt that must hold.
    pub(crate) async fn done_by_holder(&self, receipt: Receipt, settle: Settle) -> CaseResult {
        let settlements = vec![(receipt, settle)];
        for outcome in self.holder().settle(&self.queue, settlements).await? {
            let done = matches!(outcome, SettleOutcome::Done);
            check!(done, "a receipt that holds answered {outcome:?}");
        }
        Ok(())
    }

    pub(crate) fn ask(&self, max: usize, ttl: Duration) -> LeaseRequest {
        LeaseRequest::new(self.queue.clone(), max, ttl).keys(max)
    }

    /// The numbers of the messages that the other queue hands out.
    pub(crate) async fn arrived(&self) -> Result<Vec<i64>> {
        let request = LeaseRequest::new(self.other.clone(), 100, HOLD);
        Ok(numbers(&self.request(request).await?.deliveries))
    }

    /// The one message that is readable.
    pub(crate) async fn take(&self, ttl: Duration) -> Result<Delivery> {
        only(self.lease(100, ttl).await?)
    }

    /// Loses the newest message of a queue, so that the next one gets its id; skips the case if the
    /// store issues each id once.
    pub(crate) async fn lose_newest(&self, queue: &str) -> CaseResult {
        match self.harness.lose_newest(queue).await {
            Some(_) => Ok(()),
            None => Err(CaseError::Skipped(
                "the store issues no id again".to_owned(),
            )),
        }
    }

    /// Publishes one message and leases it.
    pub(crate) async fn fresh(&self, ttl: Duration) -> Result<Delivery> {
        self.publish_numbers(&[1]).await?;
        self.take(ttl).await
    }

    pub(crate) async fn nothing_readable(&self) -> CaseResult {
        let leased = self.lease(100, SHORT).await?;
        check_eq!(numbers(&leased), [0_i64; 0], "readable messages");
        Ok(())
    }

    /// Lets a time pass, and a little more, so that what was due after it is due.
    pub(crate) async fn pass(&self, time: Duration) {
        self.harness.advance(time + MARGIN).await;
    }

    pub(crate) async fn settle(
        &self,
        settlements: Vec<(Receipt, Settle)>,
    ) -> Result<Vec<SettleOutcome>> {
        let count = settlements.len();
        let outcomes = self.engine.settle(&self.queue, settlements).await?;
        check_eq!(outcomes.len(), count, "outcomes of one settle");
        Ok(outcomes)
    }

    /// Settles with receipts that must hold.
    pub(crate) async fn done(&self, settlements: Vec<(Receipt, Settle)>) -> CaseResult {
        for outcome in self.settle(settlements).await? {
            let done = matches!(outcome, SettleOutcome::Done);
            check!(done, "a receipt that holds answered {outcome:?}");
        }
        Ok(())
    }

    /// Settles with a receipt that must not hold any more.
    pub(crate) async fn lost(&self, receipt: &Receipt, settle: Settle) -> CaseResult {
        for outcome in self.settle(vec![(receipt.clone(), settle)]).await? {
            let lost = matches!(outcome, SettleOutcome::LeaseLost);
            check!(lost, "a receipt that is void answered {outcome:?}");
        }
        Ok(())
    }

    /// Extends. While an engine still works on a row, it tries again.
    pub(crate) async fn extend(&self, receipts: &[Receipt]) -> Result<Vec<ExtendOutcome>> {
        // 50 tries at 20 ms are a second, which is long for a statement on a few rows.
        for _ in 0..50 {
            let outcomes = self.engine.extend(&self.queue, receipts, HOLD).await?;
            check_eq!(outcomes.len(), receipts.len(), "outcomes of one extend");
            if !outcomes.contains(&ExtendOutcome::Busy) {
                return Ok(outcomes);
            }
            self.harness.advance(MARGIN).await;
        }
        let what = "rows that nobody works on stay busy".to_owned();
        Err(CaseError::Failed(what))
    }

    pub(crate) async fn stats(&self) -> Result<QueueStats> {
        Ok(self.engine.stats(&self.queue).await?)
    }

    pub(crate) async fn is_empty(&self) -> CaseResult {
        let stats = self.stats().await?;
        let held = stats.ready + stats.in_progress + stats.scheduled;
        check!(held == 0, "the queue should be empty and is not: {stats:?}");
        Ok(())
    }
}

/// One settlement for all of these deliveries.
pub(crate) fn each(deliveries: Vec<Delivery>, settle: &Settle) -> Vec<(Receipt, Settle)> {
    deliveries
        .into_iter()
        .map(|delivery| (delivery.receipt, settle.clone()))
        .collect()
}

pub(crate) fn ack() -> Settle {
    Settle::Ack {
        outgoing: Vec::new(),
    }
}

pub(crate) fn retry(after: Duration) -> Settle {
    Settle::Retry {
        after,
        progress: Progress::default(),
        outgoing: Vec::new(),
    }
}

pub(crate) fn bury() -> Settle {
    Settle::DeadLetter {
        reason: reason(),
        progress: Progress::default(),
        outgoing: Vec::new(),
    }
}

pub(crate) fn reason() -> Reason {
    Reason::new(ReasonKind::Fatal, "no such address: \"ä\"", 3)
        .handler(HandlerName::from("shop::mail"))
}

/// The number in each body, or -1 where there is none.
pub(crate) fn numbers(deliveries: &[Delivery]) -> Vec<i64> {
    deliveries
        .iter()
        .map(|delivery| number_in(&delivery.body))
        .collect()
}

pub(crate) fn number_in(body: &str) -> i64 {
    let value: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    value["n"].as_i64().unwrap_or(-1)
}

pub(crate) fn only(mut deliveries: Vec<Delivery>) -> Result<Delivery> {
    let seen = numbers(&deliveries);
    match (deliveries.pop(), deliveries.is_empty()) {
        (Some(delivery), true) => Ok(delivery),
        _ => Err(CaseError::Failed(format!(
            "expected one delivery, got {seen:?}"
        ))),
    }
}

/// An id that no message of the case has.
pub(crate) fn unknown_id(id: &MessageId) -> MessageId {
    match id {
        // Far beyond what any case publishes.
        MessageId::Number(number) => MessageId::Number(number + 1_000_000),
        MessageId::Dated { number, stored_at } => MessageId::Dated {
            number: number + 1_000_000,
            stored_at: *stored_at,
        },
        other => MessageId::Text(format!("{other}-unknown").into()),
    }
}

/// A name that no other run uses, since several may use one store at the same time.
pub(crate) fn unique_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let micros = since.unwrap_or_default().as_micros();
    // In hexadecimal, so that a prefix of the harness's still fits into PGMQ's 47 letters.
    format!("conf_{micros:x}_{:x}_{count:x}", std::process::id())
}
