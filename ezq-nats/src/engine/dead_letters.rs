//! Dead letters: a stream of their own, in which a letter's number is its id.
//!
//! A redrive stores the message in its queue and then removes the letter. Two that redrive one letter at the
//! same time store it once, by its id in the queue's window of duplicates; and so does one that died between
//! the two steps and does it again within the window.

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use ezq_core::async_trait;
use ezq_core::engine::{DeadLetter, DeadLetters, Death};
use ezq_core::message::headers::{DEAD, HANDLER_PREFIX, Headers, REDRIVEN, RETURNED};
use ezq_core::message::{HandlerState, MessageId, Progress, QueueName, Reason};
use ezq_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::api::missing;
use super::contract::JetStreamEngine;
use super::leases::Taken;
use super::names::Names;
use super::publish::Parcel;
use super::state::State;
use super::wire::{Stored, body};
use crate::request::{Failure, code};

impl State {
    /// The dead letter that a delivery becomes.
    pub(crate) fn letter(
        &self,
        queue: &QueueName,
        names: &Names,
        message: &Taken,
        progress: &Progress,
        reason: &Reason,
    ) -> Parcel {
        let died_at = self.clock.now().max(message.stored_at);
        let mut own = message.headers.clone();
        own.merge(progress);
        let death = json!({
            // A reason is plain data: writing it as JSON cannot fail.
            "reason": serde_json::to_value(reason).unwrap_or_default(),
            "id": message.id.as_number(),
            "deliveries": message.deliveries,
            "enqueued_at": message.stored_at,
            "died_at": died_at,
        });
        own.insert(DEAD, death);

        let stored = Stored {
            headers: own,
            stored_at: Some(message.stored_at),
            died_at: Some(died_at),
            ..Stored::default()
        };
        Parcel {
            queue: queue.clone(),
            subject: names.dead(),
            headers: stored.write(&format!("dead:{}-{}", message.id, message.deliveries)),
            payload: message.payload.clone(),
        }
    }

    fn letters_of(&self, queue: &QueueName) -> Letters<'_> {
        Letters {
            state: self,
            queue: queue.clone(),
            names: self.names(queue),
        }
    }
}

/// The dead letters of one queue.
struct Letters<'s> {
    state: &'s State,
    queue: QueueName,
    names: Names,
}

impl Letters<'_> {
    async fn stream(&self) -> Result<Stream<()>> {
        let name = self.names.dead_stream();
        let context = &self.state.connection.context;
        let stream = context.get_stream_no_info(name).await;
        stream.map_err(|error| self.unread(error))
    }

    /// The letter with this number.
    async fn at(&self, number: u64) -> Result<Option<StreamMessage>> {
        let stream = self.stream().await?;
        self.found(stream.get_raw_message(number).await)
    }

    /// The first letter with this number or a higher one.
    async fn from(&self, number: u64) -> Result<Option<StreamMessage>> {
        let stream = self.stream().await?;
        let subject = self.names.dead();
        let builder = stream
            .raw_message_builder()
            .sequence(number)
            .next_by_subject(subject);
        self.found(builder.send().await)
    }

    fn found(
        &self,
        answer: Result<StreamMessage, async_nats::jetstream::stream::RawMessageError>,
    ) -> Result<Option<StreamMessage>> {
        let error = match answer {
            Ok(message) => return Ok(Some(message)),
            Err(error) => error,
        };
        match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(None),
            LastRawMessageErrorKind::JetStream(refused) => match refused.error_code().0 {
                code::NO_MESSAGE_FOUND | code::SEQUENCE_NOT_FOUND => Ok(None),
                code::STREAM_NOT_FOUND => Err(missing(&self.queue)),
                _ => Err(self.unread(error)),
            },
            _ => Err(self.unread(error)),
        }
    }

    fn unread(&self, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        let address = self.state.address();
        let queue = &self.queue;
        let text = format!(
            "the dead letters of the queue `{queue}` cannot be read from the NATS server at {address}"
        );
        Error::new(ErrorKind::Connection, text).with_source(why)
    }

    /// Removes a letter; `false` if there is none.
    async fn remove(&self, number: u64) -> Result<bool> {
        let subject = format!("STREAM.MSG.DELETE.{}", self.names.dead_stream());
        match self.state.ask(&subject, &json!({ "seq": number })).await {
            Ok(_) => Ok(true),
            Err(Failure::Refused { code, .. }) if code != code::STREAM_NOT_FOUND => Ok(false),
            Err(failure) => {
                let address = self.state.address();
                Err(failure.about(address, &self.queue, "did not remove a dead letter"))
            }
        }
    }

    /// Stores a letter's message in its queue again.
    async fn revive(&self, letter: StreamMessage) -> Result<()> {
        let read = Stored::read(Some(&letter.headers));
        let now = self.state.clock.now();
        let died = read.died_at.unwrap_or(now).timestamp_micros();
        let stored = Stored {
            headers: revived(&read.headers),
            stored_at: read.stored_at,
            due: Some(now),
            ..Stored::default()
        };
        let parcel = Parcel {
            queue: self.queue.clone(),
            subject: self.names.now(),
            headers: stored.write(&format!("redrive:{}-{died}", letter.sequence)),
            payload: letter.payload,
        };
        let stored = self.state.store(vec![Ok(parcel)]).await?;
        stored.into_iter().try_for_each(|one| one.map(drop))
    }
}

/// The number of a letter.
fn number_of(id: &MessageId) -> Option<u64> {
    match id {
        MessageId::Number(number) => u64::try_from(*number).ok().filter(|number| *number > 0),
        _ => None,
    }
}

fn shown(letter: &StreamMessage) -> DeadLetter {
    let read = Stored::read(Some(&letter.headers));
    let death = read
        .headers
        .value(DEAD)
        .map(Death::read)
        .unwrap_or_default();
    let mut entries = read.headers.as_object().clone();
    entries.remove(DEAD);

    let id = MessageId::Number(i64::try_from(letter.sequence).unwrap_or(i64::MAX));
    let died_at = read.died_at.or(death.died_at).unwrap_or_default();
    let mut shown = DeadLetter::new(
        id,
        body(&letter.payload),
        Headers::from_value(entries.into()),
        died_at,
    );
    shown.original_id = death.message_id;
    shown.reason = death.reason;
    shown.enqueued_at = read.stored_at.unwrap_or(died_at);
    shown
}

/// The headers of a letter that is redriven: the marks of handlers that are done stay, and its death is kept
/// as [`REDRIVEN`].
fn revived(headers: &Headers) -> Headers {
    let marks = Progress::from_headers(headers);
    let done: Vec<String> = marks
        .iter()
        .filter(|(_, mark)| mark.state == HandlerState::Done)
        .map(|(name, _)| format!("{HANDLER_PREFIX}{name}"))
        .collect();
    let mut entries = headers.as_object().clone();
    entries.retain(|key, _| match key.as_str() {
        DEAD | RETURNED | REDRIVEN => false,
        key => !key.starts_with(HANDLER_PREFIX) || done.iter().any(|name| name == key),
    });

    if let Some(mut death) = headers.value(DEAD).and_then(Value::as_object).cloned() {
        // After several redrives, id and time are those of the first message.
        let earlier = headers.value(REDRIVEN).and_then(Value::as_object);
        for (key, value) in earlier.into_iter().flatten() {
            if ["id", "enqueued_at"].contains(&key.as_str()) {
                death.insert(key.clone(), value.clone());
            }
        }
        entries.insert(REDRIVEN.to_owned(), death.into());
    }
    Headers::from_value(entries.into())
}

#[async_trait]
impl DeadLetters for JetStreamEngine {
    async fn list(
        &self,
        queue: &QueueName,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let letters = self.state().letters_of(queue);
        let mut next = after.and_then(number_of).unwrap_or(0).saturating_add(1);
        let mut listed = Vec::new();
        while listed.len() < limit {
            let Some(letter) = letters.from(next).await? else {
                break;
            };
            next = letter.sequence.saturating_add(1);
            listed.push(shown(&letter));
        }
        Ok(listed)
    }

    async fn find(&self, queue: &QueueName, id: &MessageId) -> Result<Option<DeadLetter>> {
        let Some(number) = number_of(id) else {
            return Ok(None);
        };
        let letter = self.state().letters_of(queue).at(number).await?;
        Ok(letter.as_ref().map(shown))
    }

    async fn redrive(&self, queue: &QueueName, ids: &[MessageId]) -> Result<Vec<MessageId>> {
        let letters = self.state().letters_of(queue);
        let mut moved = Vec::new();
        for id in ids {
            let Some(number) = number_of(id) else {
                continue;
            };
            let Some(letter) = letters.at(number).await? else {
                continue;
            };
            // In this order: a letter that is removed first would be lost by a crash in between.
            letters.revive(letter).await?;
            if letters.remove(number).await? {
                moved.push(id.clone());
            }
        }
        Ok(moved)
    }

    async fn discard(&self, queue: &QueueName, ids: &[MessageId]) -> Result<Vec<MessageId>> {
        let letters = self.state().letters_of(queue);
        let mut discarded = Vec::new();
        for id in ids {
            if let Some(number) = number_of(id)
                && letters.remove(number).await?
            {
                discarded.push(id.clone());
            }
        }
        Ok(discarded)
    }
}
