//! [`Sending`]: one batch on its way, and what became of each of its messages.
//!
//! A batch flies at once, unless a key occurs with two topics: if the first topic fails, the second must not
//! get the events behind it. A broker that refuses a message refuses all that it got in the same set. Those are
//! then sent one by one, so that only the culprit is rejected.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ezq_core::broker::{Outbound, SendOutcome};
use ezq_core::{Error, ErrorKind, Result};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::connection::Connection;
use crate::error::{is_permanent, refused};
use crate::producer::Producer;
use crate::record::Record;

pub(crate) struct Sending<'a> {
    batch: &'a [Outbound],
    /// What is still to be sent; `None` for messages that cannot be written.
    records: Vec<Option<Record>>,
    outcomes: Vec<Option<SendOutcome>>,
    /// The keys of events that failed. What stands behind these is not sent.
    failed_keys: HashSet<&'a str>,
}

impl<'a> Sending<'a> {
    pub(crate) fn new(batch: &'a [Outbound], write: impl Fn(&Outbound) -> Result<Record>) -> Self {
        let mut sending = Self {
            batch,
            records: Vec::with_capacity(batch.len()),
            outcomes: batch.iter().map(|_| None).collect(),
            failed_keys: HashSet::new(),
        };

        for (place, message) in batch.iter().enumerate() {
            let record = write(message);
            sending.records.push(record.map_or_else(
                |error| {
                    sending.outcomes[place] = Some(SendOutcome::Rejected(error));
                    None
                },
                Some,
            ));
        }
        sending
    }

    /// Settles the messages whose topic is missing.
    pub(crate) async fn find_topics(&mut self, producer: &Arc<Producer>) -> Result<()> {
        let began = Instant::now();
        // Of a topic that is missing nothing may fly: its messages would wait in the client.
        let mut wrong = HashMap::new();
        let topics: HashSet<&str> = self.batch.iter().map(Outbound::topic).collect();
        for topic in topics {
            let found = producer.find_topic(topic).await;
            let found = found.map_err(|error| producer.failed("does not answer", &error, began))?;
            if let Err(error) = found {
                wrong.insert(topic, error);
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }

        for place in self.open() {
            match wrong.get(self.batch[place].topic()) {
                Some(error) => self.settle_wrong_topic(place, producer, error),
                None => self.settle_if_behind(place),
            }
        }
        Ok(())
    }

    fn settle_wrong_topic(&mut self, place: usize, producer: &Producer, error: &KafkaError) {
        let topic = self.batch[place].topic();
        if is_permanent(error) {
            let text = format!("the Kafka cluster can have no topic of the name `{topic}`");
            self.reject(place, refused(text, error));
            return;
        }

        let doing = match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => format!(
                "has no topic `{topic}` and does not make it: create it, or let the cluster \
                 (`auto.create.topics.enable`)"
            ),
            _ => format!("cannot use the topic `{topic}`"),
        };
        let error = producer.failed(&doing, error, Instant::now());
        self.fail(place, error);
    }

    /// Sends what is open.
    pub(crate) async fn run(
        &mut self,
        producer: &Arc<Producer>,
        connection: &Connection,
        limit: Duration,
    ) -> Result<()> {
        loop {
            let flight = self.next_flight();
            if flight.is_empty() {
                return Ok(());
            }
            let refused = self.fly(producer, &flight, limit).await;
            if refused {
                self.send_one_by_one(connection, &flight, limit).await?;
            }

            if self.has_failed(&flight) {
                // The cluster is sick, and what follows may be of a key that has failed.
                for place in self.open() {
                    self.fail(place, behind());
                }
            }
        }
    }

    /// The open messages up to one whose key occurred with another topic.
    fn next_flight(&self) -> Vec<usize> {
        let mut topics = HashMap::new();
        let mut flight = self.open();

        let other = flight.iter().position(|place| {
            let message = &self.batch[*place];
            message
                .ordering_key()
                .is_some_and(|key| *topics.entry(key).or_insert(message.topic()) != message.topic())
        });
        flight.truncate(other.unwrap_or(flight.len()));
        flight
    }

    /// Sends messages at once. Answers true if some are to be sent one by one; these stay open.
    async fn fly(&mut self, producer: &Producer, flight: &[usize], limit: Duration) -> bool {
        let began = Instant::now();
        let messages: Vec<(&Outbound, &Record)> = flight
            .iter()
            .filter_map(|place| Some((&self.batch[*place], self.records[*place].as_ref()?)))
            .collect();
        let reports = producer.fly(&messages, limit).await;
        let reports = reports.unwrap_or_else(|error| vec![Err(error); flight.len()]);

        let is_refused = reports
            .iter()
            .any(|report| report.as_ref().is_err_and(is_of_a_set));
        for (place, report) in flight.iter().zip(reports) {
            match report {
                Ok(()) => self.outcomes[*place] = Some(SendOutcome::Sent),
                // What the refusal took along is sent again as well.
                Err(_) if is_refused => {}
                Err(error) => self.settle_error(*place, producer, &error, began),
            }
        }
        is_refused
    }

    fn settle_error(
        &mut self,
        place: usize,
        producer: &Producer,
        error: &KafkaError,
        began: Instant,
    ) {
        let topic = self.batch[place].topic();
        producer.forget_topic(topic);
        let doing = format!("did not store an event in the topic `{topic}`");
        self.fail(place, producer.failed(&doing, error, began));
    }

    /// Sends the messages of a flight that are open, each alone, so that a refusal is about itself.
    async fn send_one_by_one(
        &mut self,
        connection: &Connection,
        flight: &[usize],
        limit: Duration,
    ) -> Result<()> {
        // A client of its own: beside other batches, another message could get into the same set.
        let mut producer = Arc::new(Producer::new(connection)?);
        for place in flight {
            if self.outcomes[*place].is_some() {
                continue;
            }
            self.settle_if_behind(*place);
            let Some(record) = &self.records[*place]
                .as_ref()
                .filter(|_| self.outcomes[*place].is_none())
            else {
                continue;
            };
            if producer.is_spent() {
                producer = Arc::new(Producer::new(connection)?);
            }

            let message = &self.batch[*place];
            let began = Instant::now();
            let reports = producer.fly(&[(message, record)], limit).await;
            match reports.map(|mut reports| reports.pop()) {
                Ok(Some(Ok(()))) => self.outcomes[*place] = Some(SendOutcome::Sent),
                Ok(Some(Err(error))) if is_of_a_set(&error) => {
                    let topic = message.topic();
                    let text =
                        format!("the Kafka cluster refuses an event for the topic `{topic}`");
                    self.reject(*place, refused(text, &error));
                }
                Ok(Some(Err(error))) | Err(error) => {
                    self.settle_error(*place, &producer, &error, began);
                    return Ok(());
                }
                Ok(None) => self.fail(*place, behind()),
            }
        }
        Ok(())
    }

    /// The places of messages that nothing has become of yet.
    fn open(&self) -> Vec<usize> {
        let places = 0..self.batch.len();
        places
            .filter(|place| self.outcomes[*place].is_none())
            .collect()
    }

    fn has_failed(&self, flight: &[usize]) -> bool {
        let mut outcomes = flight.iter().map(|place| &self.outcomes[*place]);
        outcomes.any(|outcome| matches!(outcome, Some(SendOutcome::Failed(_)) | None))
    }

    fn reject(&mut self, place: usize, error: Error) {
        self.outcomes[place] = Some(SendOutcome::Rejected(error));
    }

    fn fail(&mut self, place: usize, error: Error) {
        self.outcomes[place] = Some(SendOutcome::Failed(error));
        self.failed_keys.extend(self.batch[place].ordering_key());
    }

    fn settle_if_behind(&mut self, place: usize) {
        let key = self.batch[place].ordering_key();
        if key.is_some_and(|key| self.failed_keys.contains(key)) {
            self.fail(place, behind());
        }
    }

    /// The outcomes, or the first error if nothing was stored and nothing was refused.
    pub(crate) fn finish(self) -> Result<Vec<SendOutcome>> {
        let outcomes: Vec<SendOutcome> = self
            .outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| SendOutcome::Failed(behind())))
            .collect();

        let all_failed = outcomes
            .iter()
            .all(|outcome| matches!(outcome, SendOutcome::Failed(_)));
        if !all_failed {
            return Ok(outcomes);
        }
        match outcomes.into_iter().next() {
            Some(SendOutcome::Failed(error)) => Err(error),
            _ => Ok(Vec::new()),
        }
    }
}

/// Whether a broker refused a set of messages, of which one may be the culprit.
fn is_of_a_set(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    is_permanent(error)
        || matches!(
            code,
            Some(
                Code::MessageSizeTooLarge
                    | Code::InvalidMessageSize
                    | Code::MessageBatchTooLarge
                    | Code::InvalidDifferentRecord
            )
        )
}

fn behind() -> Error {
    let text = "an event before this one was not stored";
    Error::new(ErrorKind::Transient, text)
}
