//! The looks of idle consumers, gathered: when the first is due, one statement answers all that wait.
//!
//! One that waits alone is not looked for: its consumer claims, as one statement more would tell nothing
//! more. So a process with one consumer does as if there were no looks.
//!
//! A statement fails as a whole: a table may be missing or locked, or take long. Then each consumer claims
//! by itself, and the error reaches the consumer whose queue it is. For a while none of these queues is looked
//! into with others. So it is after a look that took long, such as past many dead rows.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ezq_core::engine::{LookRequest, Looked};
use ezq_core::message::QueueName;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::claim::look;
use crate::connection::dedicated::{Dedicated, call, timed};

/// For how long queues are not looked into together after that failed.
const APART: Duration = Duration::from_secs(60);
/// A look takes long if it takes longer than this. Then it is so many times as long until the next.
const LONG: Duration = Duration::from_millis(50);
const PAUSES: u32 = 100;
/// No look waits for longer: what is added to now must not overflow.
const LONGEST: Duration = Duration::from_hours(24);

/// The looks that are asked for.
#[derive(Default)]
pub(crate) struct Looks {
    state: Mutex<State>,
    /// Another look is asked for, and may be due first.
    signal: Notify,
}

#[derive(Default)]
struct State {
    waiting: Vec<Waiting>,
    /// The engine is closed: nobody looks any more.
    is_closed: bool,
    /// Queues that were part of a look that failed or took long, and until when each is left out.
    apart: HashMap<QueueName, Instant>,
}

/// A consumer that waits for a look.
struct Waiting {
    queue: QueueName,
    due: Instant,
    answer: oneshot::Sender<Looked>,
}

impl Looks {
    /// Waits until the queue was looked into, at the latest when the request is due.
    pub(crate) async fn look(&self, request: LookRequest) -> Looked {
        let due = Instant::now() + request.patience.min(LONGEST);
        let is_apart = self.lock().is_apart(&request.queue);
        if is_apart {
            sleep_until(due).await;
            return Looked::Perhaps;
        }

        let (answer, answered) = oneshot::channel();
        self.lock().wait(Waiting {
            queue: request.queue,
            due,
            answer,
        });
        self.signal.notify_one();
        // Without an answer the engine was closed.
        answered.await.unwrap_or(Looked::Perhaps)
    }

    /// Leaves those who wait without an answer: the task that looks has ended.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.waiting.clear();
    }

    /// Looks whenever a look is due, until the task is stopped.
    pub(crate) async fn look_forever(self: Arc<Self>, connections: Arc<Dedicated>) {
        loop {
            let due = self.lock().due();
            tokio::select! {
                // The new one may be due before the others.
                () = self.signal.notified() => continue,
                () = at(due) => {}
            }

            let waiting = std::mem::take(&mut self.lock().waiting);
            let mut queues: BTreeMap<QueueName, Vec<oneshot::Sender<Looked>>> = BTreeMap::new();
            for one in waiting.into_iter().filter(|one| !one.answer.is_closed()) {
                queues.entry(one.queue).or_default().push(one.answer);
            }
            self.answer(queues, &connections).await;
        }
    }

    /// Looks into queues, and answers those who wait.
    async fn answer(
        &self,
        mut queues: BTreeMap<QueueName, Vec<oneshot::Sender<Looked>>>,
        connections: &Dedicated,
    ) {
        let names: Vec<QueueName> = queues.keys().cloned().collect();
        for names in names.chunks(look::MOST) {
            let looked = match names {
                [_] => vec![Looked::Perhaps],
                _ => self.look_into(names, connections).await,
            };

            for (queue, looked) in names.iter().zip(looked) {
                for answer in queues.remove(queue).unwrap_or_default() {
                    // Whoever asked may have been woken meanwhile.
                    let _ = answer.send(looked);
                }
            }
        }
    }

    async fn look_into(&self, queues: &[QueueName], connections: &Dedicated) -> Vec<Looked> {
        let looked = call!(connections, |connection| timed(look::look(
            connection, queues
        )));
        match looked {
            Ok(Ok((took, looked))) => {
                if took > LONG {
                    self.lock().set_apart(queues, took.saturating_mul(PAUSES));
                }
                return looked;
            }
            Ok(Err(failure)) => {
                tracing::debug!(%failure, "cannot look into idle queues together; consumers claim");
                self.lock().set_apart(queues, APART);
            }
            // No connection: the claims say so.
            Err(_) => {}
        }
        vec![Looked::Perhaps; queues.len()]
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each step leaves the state whole; a look that is lost is followed by a claim.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&mut self, waiting: Waiting) {
        if !self.is_closed {
            self.waiting.push(waiting);
        }
    }

    /// When the first look is due.
    fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|one| one.due).min()
    }

    fn is_apart(&self, queue: &QueueName) -> bool {
        let until = self.apart.get(queue);
        until.is_some_and(|until| Instant::now() < *until)
    }

    fn set_apart(&mut self, queues: &[QueueName], time: Duration) {
        let now = Instant::now();
        self.apart.retain(|_, until| now < *until);
        let queues = queues.iter().cloned();
        self.apart.extend(queues.map(|queue| (queue, now + time)));
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
