//! A settlement in the database's units.

use chrono::{DateTime, Utc};
use ezq_core::engine::{Receipt, Settle};
use ezq_core::message::headers::DEAD;
use ezq_core::message::{Progress, QueueName, Reason};
use ezq_core::{Error, ErrorKind};
use serde_json::Value;

use crate::message::encoding::Encoding;
use crate::message::receipts::{self, Key};
use crate::publish::Row;
use crate::sql::units::micros;

pub(crate) struct Settlement {
    /// Its index in the batch.
    pub(crate) index: usize,
    pub(crate) receipt: Receipt,
    key: Key,
    pub(crate) kind: Kind,
    pub(crate) outgoing: Vec<(QueueName, Row)>,
}

pub(crate) enum Kind {
    Ack,
    /// Deleted, whatever the queue keeps.
    Discard,
    /// Back into the queue: after a pause, or at its old place.
    Return {
        after_us: Option<i64>,
        due: Option<DateTime<Utc>>,
        marks: String,
    },
    Dead {
        marks: String,
    },
}

impl Settlement {
    pub(crate) fn new(
        index: usize,
        receipt: Receipt,
        settle: Settle,
        encoding: Encoding,
    ) -> Result<Self, (Receipt, Error)> {
        let (key, due) = match receipts::read(&receipt) {
            Ok(parts) => parts,
            Err(error) => return Err((receipt, error)),
        };

        let (kind, outgoing) = match settle {
            Settle::Ack { outgoing } => (Kind::Ack, outgoing),
            Settle::Retry {
                after,
                progress,
                outgoing,
            } => {
                let kind = Kind::Return {
                    after_us: Some(micros(after)),
                    due: None,
                    marks: marks(&progress, None, encoding),
                };
                (kind, outgoing)
            }
            Settle::DeadLetter {
                reason,
                progress,
                outgoing,
            } => {
                let marks = marks(&progress, Some(&reason), encoding);
                (Kind::Dead { marks }, outgoing)
            }
            Settle::Discard => (Kind::Discard, Vec::new()),
            Settle::Release => {
                let kind = Kind::Return {
                    after_us: None,
                    due: Some(due),
                    marks: "{}".to_owned(),
                };
                (kind, Vec::new())
            }
            _ => {
                let text = "this engine is older than the settlement that it was asked for";
                return Err((receipt, Error::new(ErrorKind::Unsupported, text)));
            }
        };

        let outgoing: Result<Vec<_>, Error> = outgoing
            .into_iter()
            .map(|message| {
                let queue = message.queue.clone();
                Ok((queue, Row::new(message, encoding)?))
            })
            .collect();
        match outgoing {
            Ok(outgoing) => Ok(Self {
                index,
                receipt,
                key,
                kind,
                outgoing,
            }),
            Err(error) => Err((receipt, error)),
        }
    }

    pub(crate) fn key(&self) -> Key {
        self.key
    }

    /// Whether one statement settles it, without a transaction of several.
    pub(crate) fn is_plain(&self) -> bool {
        self.outgoing.is_empty() && !matches!(self.kind, Kind::Dead { .. } | Kind::Discard)
    }

    /// Whether an event that it publishes has a dedupe key.
    pub(crate) fn has_keys(&self) -> bool {
        self.outgoing.iter().any(|(_, row)| row.dedupe.is_some())
    }

    /// 0: plain acknowledgements, 1: plain returns, 2: all that needs a transaction.
    pub(crate) fn group(&self) -> usize {
        match self.kind {
            Kind::Ack if self.is_plain() => 0,
            Kind::Return { .. } if self.is_plain() => 1,
            _ => 2,
        }
    }

    pub(crate) fn marks(&self) -> &str {
        match &self.kind {
            Kind::Ack | Kind::Discard => "{}",
            Kind::Return { marks, .. } | Kind::Dead { marks } => marks,
        }
    }
}

// Marks as header entries, with the reason of a dead letter.
fn marks(progress: &Progress, reason: Option<&Reason>, encoding: Encoding) -> String {
    let mut entries = encoding.marks(progress);
    if let Some(reason) = reason {
        let reason = encoding.reason(reason);
        entries.insert(DEAD.to_owned(), serde_json::json!({ "reason": reason }));
    }
    Value::Object(entries).to_string()
}
