//! Storing a batch through the pool. If one message fails it, the batch is halved until that
//! message is alone. After a conflict it is tried again.

use std::sync::Arc;
use std::time::Duration;

use ezq_core::Error;
use ezq_core::engine::PublishOutcome;
use ezq_core::message::QueueName;
use sqlx::postgres::PgConnection;

use crate::config::Place;
use crate::connection::dedicated::limit;
use crate::connection::pool::Pool;
use crate::connection::stop::{Stopper, mark};
use crate::error;
use crate::message::storable;
use crate::publish::copy;
use crate::publish::insert::insert;
use crate::publish::row::Row;

/// The most bytes in one statement, unless a single message is larger.
const STATEMENT_BYTES: usize = 32 * 1024 * 1024;

/// How often a statement is run after deadlocks or serialisation failures.
pub(crate) const CONFLICT_TRIES: u32 = 5;

/// Stores rows through the pool. Clones share the pool.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) pool: Arc<Pool>,
    pub(crate) place: Place,
    pub(crate) stopper: Stopper,
}

impl Store {
    /// Stores rows of one queue in statements of their own. Returns an outcome for each, in their
    /// order.
    pub(crate) async fn run(&self, queue: &QueueName, rows: &[Row]) -> Vec<PublishOutcome> {
        let mut outcomes = Vec::with_capacity(rows.len());
        // Parts still to be stored, the next one last.
        let mut parts: Vec<&[Row]> = vec![rows];
        let mut conflicts = 0;

        while let Some(part) = parts.pop() {
            let bytes: usize = part.iter().map(Row::bytes).sum();
            if part.len() > 1 && bytes > STATEMENT_BYTES {
                halve(part, &mut parts);
                continue;
            }

            let stored = async {
                let mut connection = limit(self.stopper.patience, self.pool.acquire()).await?;
                let insertion = async {
                    let stored = store(&mut connection, queue, part).await;
                    connection.end(stored)
                };
                self.stopper.limit(&mark(Some(queue)), insertion).await
            };

            match stored.await {
                Ok(stored) => outcomes.extend(stored),
                // Only with dedupe keys: another transaction was taking one of them.
                Err(failure) if error::is_conflict(&failure) && conflicts < CONFLICT_TRIES => {
                    conflicts += 1;
                    // Doubles, up to 160 ms: the other transaction may take a while.
                    tokio::time::sleep(Duration::from_millis(5 << conflicts)).await;
                    parts.push(part);
                }
                Err(failure) if error::is_data(&failure) => {
                    if part.len() > 1 {
                        halve(part, &mut parts);
                    } else {
                        let refused = storable::refused_with(failure, "its body or headers");
                        outcomes.push(PublishOutcome::Failed(refused));
                    }
                }
                Err(failure) => {
                    let failure = error::on_queue(failure, queue, &self.place);
                    let rest = part.len() + parts.iter().map(|part| part.len()).sum::<usize>();
                    let again: Vec<Error> = (1..rest).map(|_| failure.without_source()).collect();
                    outcomes.push(PublishOutcome::Failed(failure));
                    outcomes.extend(again.into_iter().map(PublishOutcome::Failed));
                    break;
                }
            }
        }

        outcomes
    }
}

async fn store(
    connection: &mut PgConnection,
    queue: &QueueName,
    rows: &[Row],
) -> Result<Vec<PublishOutcome>, sqlx::Error> {
    // Dedupe keys need a statement that compares.
    let is_copied = rows.len() >= copy::LEAST && rows.iter().all(|row| row.dedupe.is_none());
    if is_copied && let Some(stored) = copy::copy(connection, queue, rows).await? {
        return Ok(stored);
    }
    insert(connection, queue, rows).await
}

fn halve<'a>(part: &'a [Row], parts: &mut Vec<&'a [Row]>) {
    let (first, second) = part.split_at(part.len() / 2);
    parts.push(second);
    parts.push(first);
}
