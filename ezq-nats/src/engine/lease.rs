//! Leasing: one request for what is ready, answered at once.

use std::sync::Arc;

use async_nats::{Message, StatusCode, Subscriber};
use chrono::DateTime;
use ezq_core::engine::{Delivery, LeaseRequest, Leased};
use ezq_core::{Error, ErrorKind, Result};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::api::missing;
use super::keeper::ends_after;
use super::leases::{Held, Key, Taken, receipt};
use super::names::{CONSUMER, Queue};
use super::queues::consumer_info;
use super::state::State;
use super::wire::{self, Stored};
use crate::ack_subject::AckSubject;
use crate::connection::ANSWER_LIMIT;

/// How long a lease waits for what was confirmed just before.
const MOMENT_NANOS: u64 = 50_000_000;
/// For how many messages there is room from the start.
const MOST_AT_ONCE: usize = 1_024;

impl State {
    pub(crate) async fn lease(&self, request: &LeaseRequest) -> Result<Leased> {
        let queue = self.queue(&request.queue).await?;
        self.connection.ready().await?;
        if self.clock.is_old() {
            // The answer is noted. If there is none, the next request says why.
            let info = consumer_info(&queue.names);
            let _ = self.ask(&info, &json!(null)).await;
        }

        let asked = Instant::now();
        let batch = request.max.max(1);
        let at_once = json!({ "batch": batch, "no_wait": true });
        let mut messages = self.pull(request, &queue, &at_once).await?;
        if messages.is_empty() {
            // The server confirms a message a moment before it counts it as ready.
            let a_moment = json!({ "batch": batch, "expires": MOMENT_NANOS });
            messages = self.pull(request, &queue, &a_moment).await?;
        }
        let mut deliveries = Vec::with_capacity(messages.len());
        let mut held = Vec::with_capacity(messages.len());
        for message in messages {
            // A message without such a subject was sent to the inbox by somebody else.
            let Some((lease, delivery)) = self.take_in(request, &queue, message, asked) else {
                continue;
            };
            held.push(lease);
            deliveries.push(delivery);
        }

        self.leases.add(held);
        deliveries.sort_by_key(Delivery::position);
        Ok(Leased::new(deliveries))
    }

    fn take_in(
        &self,
        request: &LeaseRequest,
        queue: &Queue,
        message: Message,
        asked: Instant,
    ) -> Option<((Key, Held), Delivery)> {
        let subject = message.reply.clone()?;
        let ack = AckSubject::read(&subject)?;
        let stored = Stored::read(message.headers.as_ref());
        let number = ezq_core::message::MessageId::Number(ack.sequence);
        let id = stored.id.unwrap_or(number);
        let arrived = DateTime::from_timestamp_nanos(ack.stored_at);
        let stored_at = stored.stored_at.unwrap_or(arrived);
        let deliveries = stored.deliveries.saturating_add(ack.delivered);

        let receipt = receipt(id.clone(), ack);
        let words = receipt.token().words::<3>()?;
        let mut delivery = Delivery::new(
            receipt,
            wire::body(&message.payload),
            stored.headers.clone(),
            stored_at,
        );
        delivery.deliveries = deliveries;
        delivery.due = stored.due.unwrap_or(arrived);
        // The server hands nothing out early, so a due time ahead of its clock shows the error of ours.
        delivery.leased_at = self.clock.now().max(delivery.due);

        let taken = Taken {
            id,
            ack: subject,
            payload: message.payload,
            headers: stored.headers,
            stored_at,
            deliveries,
        };
        let held = Held {
            message: Arc::new(taken),
            ack_wait: queue.ack_wait,
            ends: ends_after(asked, request.ttl),
            server_ends: asked + queue.ack_wait,
            renew_again_at: asked,
            is_settling: false,
        };
        Some((((request.queue.clone(), words), held), delivery))
    }

    /// Asks for messages, and waits until the server says that these are all.
    async fn pull(
        &self,
        request: &LeaseRequest,
        queue: &Queue,
        options: &Value,
    ) -> Result<Vec<Message>> {
        let client = &self.connection.client;
        let inbox = client.new_inbox();
        let mut answers = client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| self.unleased(error))?;
        let stream = queue.names.stream();
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{CONSUMER}");
        client
            .publish_with_reply(subject, inbox, options.to_string().into())
            .await
            .map_err(|error| self.unleased(error))?;

        // One limit for all of them: one for each message would set up a timer each.
        let mut messages = Vec::with_capacity(request.max.min(MOST_AT_ONCE));
        let gathered = self.gather(request, &mut answers, &mut messages);
        match timeout(ANSWER_LIMIT, gathered).await {
            Ok(gathered) => gathered?,
            // What came so far is leased.
            Err(_) if !messages.is_empty() => {}
            Err(_) => return Err(self.unleased("no answer")),
        }
        Ok(messages)
    }

    /// Gathers messages until the server says that these are all.
    async fn gather(
        &self,
        request: &LeaseRequest,
        answers: &mut Subscriber,
        messages: &mut Vec<Message>,
    ) -> Result<()> {
        while messages.len() < request.max.max(1) {
            let Some(answer) = answers.next().await else {
                // What came so far is leased.
                let is_none = messages.is_empty();
                return if is_none {
                    Err(self.unleased("no answer"))
                } else {
                    Ok(())
                };
            };
            match answer.status {
                None => messages.push(answer),
                Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => break,
                Some(StatusCode::NO_RESPONDERS) => {
                    self.forget(&request.queue);
                    return Err(missing(&request.queue));
                }
                Some(_) if !messages.is_empty() => break,
                Some(status) => {
                    self.forget(&request.queue);
                    let why = answer.description.unwrap_or_default();
                    return Err(self.unleased(format!("{status} {why}")));
                }
            }
        }
        Ok(())
    }

    fn unleased(&self, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        let address = self.address();
        let text = format!("the NATS server at {address} handed out no messages");
        Error::new(ErrorKind::Connection, text).with_source(why)
    }
}
