//! The reference: a store as the contract describes it, a list of messages and a list of dead letters.
//!
//! It knows nothing of any engine: no indexes, no tokens, no database's time. It leaves open what the
//! contract leaves open, which is the order of messages that one call returned or leased.

mod bulk;

use std::fmt;

use ezq_core::engine::QueueStats;
use ezq_core::message::headers::Headers;
use ezq_core::message::{HandlerState, MessageId, Progress, Reason};

use super::operation::{How, When};
use crate::error::{CaseError, CaseResult};

/// The time by which messages stand in order: the half hour on the moved clock, and the step within it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) half_hour: i64,
    step: usize,
    place: Place,
}

/// The order among the messages that one step stores together: the batch within the step, and the index
/// in the batch. Everything else that falls due with one step may stand in any order.
pub(super) type Place = Option<(usize, usize)>;

impl Time {
    /// Whether, in every engine, what is due at this time stands before what is due at the other.
    pub(super) fn precedes(&self, other: &Self) -> bool {
        match (self.place, other.place) {
            (Some((batch, index)), Some((of, than))) if self.moment() == other.moment() => {
                batch == of && index < than
            }
            _ => self.moment() < other.moment(),
        }
    }

    /// The time without the order of one step's messages.
    pub(super) fn moment(&self) -> (i64, usize) {
        (self.half_hour, self.step)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.half_hour / 2;
        let half = if self.half_hour % 2 == 0 { "" } else { ":30" };
        write!(f, "{hours}{half} h in step {}", self.step)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) queue: usize,
    /// The number in its body, which no other message has.
    pub(super) number: i64,
    /// Unknown until it is seen, for an event that left with a settlement.
    pub(super) id: Option<MessageId>,
    pub(super) stored: Time,
    pub(super) due: Time,
    /// Its place when it was last handed out. A release returns it there.
    pub(super) stood: Time,
    pub(super) deliveries: u32,
    pub(super) returned: u32,
    pub(super) marks: Progress,
    /// What it had died of before it was redriven.
    pub(super) had_died: Option<Reason>,
    /// The client that gave it back to its old place, until it is handed out again.
    returned_by: Option<usize>,
    /// The one receipt that settles it.
    holder: Option<usize>,
}

#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) message: Message,
    pub(super) id: Option<MessageId>,
    pub(super) reason: Reason,
    pub(super) died: Time,
}

/// The outcome of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Done,
    LeaseLost,
    Failed,
}

/// A place in a queue, by which a claim is bounded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) due: Time,
    pub(super) number: i64,
}

/// The places between which a claim looks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bounds {
    pub(super) before: Option<Standing>,
    pub(super) after: Option<Standing>,
}

#[derive(Debug)]
pub(super) struct Reference {
    now: Time,
    /// Which client of the store acts.
    client: usize,
    messages: Vec<Message>,
    letters: Vec<Letter>,
}

impl Reference {
    pub(super) fn new() -> Self {
        let now = Time {
            half_hour: 0,
            step: 0,
            place: None,
        };
        Self {
            now,
            client: 0,
            messages: Vec::new(),
            letters: Vec::new(),
        }
    }

    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// Says which client of the store acts from now on.
    pub(super) fn act_as(&mut self, client: usize) {
        self.client = client;
    }

    pub(super) fn step(&self) -> usize {
        self.now.step
    }

    pub(super) fn begin_step(&mut self) {
        self.now.step += 1;
    }

    pub(super) fn advance(&mut self, hours: i64) {
        self.now.half_hour += 2 * hours;
    }

    /// The due time of a message that this step stores at a place of its batch.
    pub(super) fn due(&self, when: When, place: Place) -> Time {
        let half_hours = match when {
            When::Now => 0,
            When::After { hours } => 2 * hours,
            When::At { hours } => (2 * hours + 1).max(0),
        };
        Time {
            half_hour: self.now.half_hour + half_hours,
            place,
            ..self.now
        }
    }

    pub(super) fn publish(
        &mut self,
        queue: usize,
        number: i64,
        id: Option<MessageId>,
        due: Time,
        marks: Progress,
    ) {
        self.messages.push(Message {
            queue,
            number,
            id,
            stored: self.now,
            due,
            stood: due,
            deliveries: 0,
            returned: 0,
            marks,
            had_died: None,
            returned_by: None,
            holder: None,
        });
    }

    fn is_due(&self, message: &Message) -> bool {
        message.due.moment() <= self.now.moment()
    }

    /// Whether a message may be handed out now, and whether it must be.
    ///
    /// The two differ for messages that fall due in the step of a bound: the contract leaves open on
    /// which side of the bound they stand.
    fn is_readable(&self, message: &Message, queue: usize, bounds: Bounds) -> (bool, bool) {
        let ready = message.queue == queue && self.is_due(message);
        let mut may = ready;
        let mut must = ready;
        if let Some(before) = bounds.before {
            // A message is never before itself.
            may &= !before.due.precedes(&message.due) && message.number != before.number;
            must &= message.due.precedes(&before.due);
        }
        if let Some(after) = bounds.after {
            let follows = after.due.precedes(&message.due);
            // A message that was returned in this step may stand behind its old place.
            may &= follows || !message.due.precedes(&after.due) && message.number != after.number;
            must &= follows;
        }
        (may, must)
    }

    /// Checks that a claim may hand out the messages with these numbers, in this order.
    pub(super) fn lease(
        &mut self,
        queue: usize,
        numbers: &[i64],
        max: usize,
        bounds: Bounds,
    ) -> CaseResult {
        let mut may = Vec::new();
        let mut must = Vec::new();
        for message in &self.messages {
            let (readable, certainly) = self.is_readable(message, queue, bounds);
            if readable {
                may.push((message.due, message.number));
            }
            // What another client gave back may be passed over by a claim that finds others.
            let elsewhere = message.returned_by.is_some_and(|by| by != self.client);
            if certainly && (numbers.is_empty() || !elsewhere) {
                must.push((message.due, message.number));
            }
        }

        let dues: Option<Vec<Time>> = numbers
            .iter()
            .map(|number| may.iter().find(|(_, n)| n == number).map(|(due, _)| *due))
            .collect();
        let seen = || format!("may be readable: {may:?}; of {max} handed out: {numbers:?}");
        let Some(dues) = dues else {
            return Err(CaseError::Failed(seen()));
        };
        let distinct = (1..numbers.len()).all(|i| !numbers[..i].contains(&numbers[i]));
        check!(distinct, "one twice, {}", seen());

        let in_order = (1..dues.len()).all(|i| !dues[..i].iter().any(|d| dues[i].precedes(d)));
        check!(in_order, "out of order, {}", seen());

        // A full answer may leave out what stands behind it, any other leaves out nothing.
        let is_full = numbers.len() == max;
        let complete = must
            .iter()
            .filter(|(_, number)| !numbers.contains(number))
            .all(|(due, _)| is_full && !dues.iter().any(|handed_out| due.precedes(handed_out)));
        check!(complete, "passed over, {}", seen());
        Ok(())
    }

    /// Notes that a message was handed out with a receipt. Returns the message as it was handed out.
    pub(super) fn deliver(&mut self, number: i64, receipt: usize, hours: i64) -> Option<Message> {
        let until = self.due(When::After { hours }, None);
        let message = self
            .messages
            .iter_mut()
            .find(|message| message.number == number)?;
        message.stood = message.due;
        message.due = until;
        message.deliveries += 1;
        message.returned_by = None;
        message.holder = Some(receipt);
        Some(message.clone())
    }

    pub(super) fn learn_id(&mut self, number: i64, id: &MessageId) {
        let message = self
            .messages
            .iter_mut()
            .find(|message| message.number == number);
        if let Some(message) = message {
            message.id = Some(id.clone());
        }
    }

    fn held(&self, queue: usize, receipt: usize) -> Option<usize> {
        self.messages
            .iter()
            .position(|message| message.queue == queue && message.holder == Some(receipt))
    }

    /// Whether a receipt settles a message of this queue.
    pub(super) fn holds(&self, queue: usize, receipt: usize) -> bool {
        self.held(queue, receipt).is_some()
    }

    /// Settles one delivery. The caller publishes the events that leave with it.
    pub(super) fn settle(
        &mut self,
        queue: usize,
        receipt: usize,
        how: How,
        progress: &Progress,
        reason: Reason,
    ) -> Ending {
        let Some(index) = self.held(queue, receipt) else {
            return Ending::LeaseLost;
        };
        let died = self.now;
        let due = match how {
            How::Retry { hours } => self.due(When::After { hours }, None),
            How::Ack | How::Bury | How::Release => self.messages[index].stood,
        };
        let mut message = self.messages.remove(index);
        message.marks.extend(progress.clone());
        message.holder = None;

        match how {
            How::Ack => {}
            How::Bury => self.letters.push(Letter {
                message,
                id: None,
                reason,
                died,
            }),
            How::Retry { .. } | How::Release => {
                message.due = due;
                message.returned += 1;
                message.returned_by = Some(self.client);
                self.messages.push(message);
            }
        }
        Ending::Done
    }

    pub(super) fn extend(&mut self, queue: usize, receipt: usize, hours: i64) -> bool {
        let until = self.due(When::After { hours }, None);
        let Some(index) = self.held(queue, receipt) else {
            return false;
        };
        self.messages[index].due = until;
        true
    }

    fn undelivered(&self, queue: usize, id: &MessageId) -> Option<usize> {
        self.messages.iter().position(|message| {
            // Once it was delivered, a handler may have run.
            message.queue == queue && message.id.as_ref() == Some(id) && message.deliveries == 0
        })
    }

    pub(super) fn cancel(&mut self, queue: usize, id: &MessageId) -> bool {
        let found = self.undelivered(queue, id);
        found.map(|index| self.messages.remove(index)).is_some()
    }

    pub(super) fn reschedule(&mut self, queue: usize, id: &MessageId, when: When) -> bool {
        let due = self.due(when, None);
        let found = self.undelivered(queue, id);
        found.map(|index| self.messages[index].due = due).is_some()
    }

    /// Removes a message, whoever holds it. Returns whether it was there.
    pub(super) fn lose(&mut self, number: i64) -> bool {
        let index = self
            .messages
            .iter()
            .position(|message| message.number == number);
        index.map(|index| self.messages.remove(index)).is_some()
    }

    pub(super) fn purge(&mut self, queue: usize) -> u64 {
        let held = self.messages.len();
        self.messages.retain(|message| message.queue != queue);
        count(held - self.messages.len())
    }

    /// The dead letters of a queue, oldest first.
    pub(super) fn letters(&self, queue: usize) -> impl Iterator<Item = &Letter> {
        self.letters
            .iter()
            .filter(move |letter| letter.message.queue == queue)
    }

    pub(super) fn learn_letter_id(&mut self, number: i64, id: &MessageId) {
        let letter = self
            .letters
            .iter_mut()
            .find(|letter| letter.message.number == number);
        if let Some(letter) = letter {
            letter.id = Some(id.clone());
        }
    }

    /// Removes a dead letter, if it is there.
    pub(super) fn discard(&mut self, queue: usize, id: &MessageId) -> Option<Letter> {
        let index = self
            .letters
            .iter()
            .position(|letter| letter.message.queue == queue && letter.id.as_ref() == Some(id))?;
        Some(self.letters.remove(index))
    }

    /// Moves a dead letter back to its queue. Returns whether it was there.
    pub(super) fn redrive(&mut self, queue: usize, id: &MessageId) -> bool {
        let due = self.due(When::Now, None);
        let Some(letter) = self.discard(queue, id) else {
            return false;
        };
        let Message {
            number,
            marks,
            stored,
            ..
        } = letter.message;
        let done = marks.into_iter();
        let done = done.filter(|(_, mark)| mark.state == HandlerState::Done);
        self.publish(queue, number, None, due, done.collect());
        // It keeps the time at which it was first stored.
        if let Some(message) = self.messages.last_mut() {
            message.stored = stored;
            message.had_died = Some(letter.reason);
        }
        true
    }

    /// The counts, without `oldest_ready`, and the due time of the oldest message that is ready.
    pub(super) fn stats(&self, queue: usize) -> (QueueStats, Option<Time>) {
        let held = || {
            self.messages
                .iter()
                .filter(|message| message.queue == queue)
        };
        let ready = held().filter(|message| self.is_due(message));
        let waiting = held().filter(|message| !self.is_due(message));

        let mut stats = QueueStats::default();
        stats.ready = count(ready.clone().count());
        stats.in_progress = count(waiting.clone().filter(|m| m.deliveries > 0).count());
        stats.scheduled = count(waiting.filter(|m| m.deliveries == 0).count());
        stats.dead = count(self.letters(queue).count());
        let oldest_ready = ready.map(|message| message.due).min_by_key(Time::moment);
        (stats, oldest_ready)
    }

    /// The due time of the next message that is not due yet, among those that stand before the bound.
    pub(super) fn next_due(&self, queue: usize, bounds: Bounds) -> Option<Time> {
        self.messages
            .iter()
            .filter(|message| message.queue == queue && !self.is_due(message))
            .filter(|message| {
                bounds
                    .before
                    .is_none_or(|before| message.due.precedes(&before.due))
            })
            .map(|message| message.due)
            .min_by_key(Time::moment)
    }
}

impl Message {
    /// The headers that it must have, without the reason that it had died of.
    pub(super) fn headers(&self) -> Headers {
        let mut headers = Headers::new();
        headers.insert("correlation-id", correlation(self.number));
        for (key, mark) in self.marks.to_headers() {
            headers.insert(key, mark);
        }
        if self.returned > 0 {
            headers.insert("ezq-returned", self.returned);
        }
        headers
    }
}

/// The header that a publisher sends along.
pub(super) fn correlation(number: i64) -> String {
    format!("c-{number}")
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
