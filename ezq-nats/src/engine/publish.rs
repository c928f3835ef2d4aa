//! Storing: every message of a batch is sent before the first confirmation is awaited.
//!
//! Each has an id in the server's window of duplicates. So one whose confirmation got lost is sent a second
//! time, and is stored once.

use std::collections::BTreeSet;

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use ezq_core::engine::{Due, Outgoing, PublishOutcome};
use ezq_core::message::{MessageId, QueueName};
use ezq_core::{Error, ErrorKind, Result};

use super::api::missing;
use super::names::Wait;
use super::server_clock::{capped, later};
use super::state::State;
use super::wire::{Stored, schedule};
use crate::error::{Refusal, not_stored, refusal};

/// A message on its way to a stream.
#[derive(Debug, Clone)]
pub(crate) struct Parcel {
    pub(crate) queue: QueueName,
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

impl State {
    /// Stores messages, and answers one outcome each.
    pub(crate) async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>> {
        let parcels: Vec<Result<Parcel>> = messages
            .into_iter()
            .map(|message| self.parcel(message, &self.unique()))
            .collect();
        let outcomes = self.store(parcels).await?;
        Ok(outcomes
            .into_iter()
            .map(|stored| stored.map(|ack| id_of(&ack)).into())
            .collect())
    }

    /// Checks a message as far as that can be done without the server.
    pub(crate) fn check(&self, message: &Outgoing) -> Result<()> {
        let limit = self.capabilities.max_body.unwrap_or(usize::MAX);
        if message.body.len() > limit {
            let bytes = message.body.len();
            let text = format!(
                "the body has {bytes} bytes, and the NATS server takes {limit}: raise its \
                 `max_payload`, or store the data elsewhere and publish where it is"
            );
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        if message.dedupe.is_some() {
            let name = self.capabilities.name;
            let text = format!("the engine `{name}` does not support dedupe keys");
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        Ok(())
    }

    /// A message with this id in the window of duplicates.
    pub(crate) fn parcel(&self, message: Outgoing, dedupe: &str) -> Result<Parcel> {
        self.check(&message)?;
        let names = self.names(&message.queue);
        let now = self.clock.now();
        let due = match message.due {
            Due::After(pause) if !pause.is_zero() => Some(later(now, pause)),
            Due::At(time) if time > now => Some(capped(time)),
            _ => None,
        };

        let stored = Stored {
            headers: message.headers,
            // A message that waits is stored twice: first by its publisher, and then by the server.
            stored_at: due.map(|_| now),
            due,
            ..Stored::default()
        };
        let mut headers = stored.write(dedupe);
        let subject = match due {
            None => names.now(),
            Some(due) => {
                schedule(&mut headers, due, &names.due());
                names.wait(Wait::New, dedupe)
            }
        };
        Ok(Parcel {
            queue: message.queue,
            subject,
            headers,
            payload: message.body.into(),
        })
    }

    /// Stores messages; one result for each. Those that are certainly not stored, or without an answer, are
    /// sent a second time.
    pub(crate) async fn store(
        &self,
        parcels: Vec<Result<Parcel>>,
    ) -> Result<Vec<Result<PublishAck>>> {
        self.connection.ready().await?;
        let losses = self.connection.losses();
        let mut sent = Vec::with_capacity(parcels.len());
        let mut woken = BTreeSet::new();
        for parcel in &parcels {
            sent.push(match parcel {
                Ok(parcel) => Some(self.send(parcel).await),
                Err(_) => None,
            });
        }

        let mut results = Vec::with_capacity(parcels.len());
        for (parcel, sent) in parcels.into_iter().zip(sent) {
            let result = match (parcel, sent) {
                (Ok(parcel), Some(sent)) => {
                    let result = self.confirmed(&parcel, sent, losses).await;
                    if result.is_ok() {
                        woken.insert(parcel.queue);
                    }
                    result
                }
                (Err(error), _) => Err(error),
                // Whatever can be sent was sent.
                (Ok(parcel), None) => Err(missing(&parcel.queue)),
            };
            results.push(result);
        }
        for queue in woken {
            self.wake(&queue).await;
        }
        Ok(results)
    }

    async fn send(&self, parcel: &Parcel) -> Result<PublishAckFuture, Failed> {
        let context = &self.connection.context;
        let sent = context
            .publish_with_headers(
                parcel.subject.clone(),
                parcel.headers.clone(),
                parcel.payload.clone(),
            )
            .await;
        sent.map_err(|error| self.failed(parcel, error))
    }

    async fn confirmed(
        &self,
        parcel: &Parcel,
        sent: Result<PublishAckFuture, Failed>,
        losses: u64,
    ) -> Result<PublishAck> {
        match self.answered(parcel, sent, losses).await {
            Ok(ack) => Ok(ack),
            // The server has decided, so asking again changes nothing.
            Err(Failed {
                may_help: false,
                error,
            }) => Err(error),
            Err(_) => {
                self.connection.ready().await?;
                let losses = self.connection.losses();
                let sent = self.send(parcel).await;
                let answered = self.answered(parcel, sent, losses).await;
                answered.map_err(|failed| failed.error)
            }
        }
    }

    async fn answered(
        &self,
        parcel: &Parcel,
        sent: Result<PublishAckFuture, Failed>,
        losses: u64,
    ) -> Result<PublishAck, Failed> {
        tokio::select! {
            biased;
            answered = sent?.into_future() => {
                answered.map_err(|error| self.failed(parcel, error))
            }
            () = self.connection.lost_after(losses) => Err(Failed {
                may_help: true,
                error: crate::error::away(self.address()),
            }),
        }
    }

    fn failed(
        &self,
        parcel: &Parcel,
        error: async_nats::jetstream::context::PublishError,
    ) -> Failed {
        match refusal(&error) {
            Refusal::NoStream => {
                self.forget(&parcel.queue);
                Failed {
                    may_help: false,
                    error: missing(&parcel.queue),
                }
            }
            refusal => Failed {
                may_help: refusal == Refusal::NoAnswer,
                error: not_stored(self.address(), &parcel.subject, error),
            },
        }
    }

    /// Wakes the workers of a queue, wherever they are.
    pub(crate) async fn wake(&self, queue: &QueueName) {
        let subject = self.names(queue).wake();
        // A hint: workers look by themselves as well.
        let _ = self.connection.client.publish(subject, Bytes::new()).await;
    }
}

/// A message that was not stored.
struct Failed {
    /// Sending it again may help.
    may_help: bool,
    error: Error,
}

/// The id of a message that is stored.
pub(crate) fn id_of(ack: &PublishAck) -> MessageId {
    MessageId::Number(i64::try_from(ack.sequence).unwrap_or(i64::MAX))
}
