//! Runs the handlers of one delivery. A handler that fails, panics or takes too long stops no other,
//! and only the handlers that are not done run again.

use std::borrow::Cow;
use std::sync::Arc;

use futures_util::future::{Either, join_all};

use crate::clock::EngineClock;
use crate::delivery::attempt::Attempt;
use crate::dispatch::attempt;
use crate::dispatch::batch_member::Member;
use crate::dispatch::batcher::run_in_batch;
use crate::dispatch::commit_order::CommitOrder;
use crate::dispatch::dispatcher::Dispatcher;
use crate::dispatch::in_place::in_a_task;
use crate::dispatch::join::join;
use crate::dispatch::log::log_delivery;
use crate::dispatch::permit::permit;
use crate::dispatch::place::Place;
use crate::dispatch::run_outcome::RunOutcome;
use crate::dispatch::work::Work;
use crate::engine::{Outgoing, Settle};
use crate::handler::Handler;
use crate::handler::invoke::Invoke;
use crate::logging::warn;
use crate::message::settlement::{HandlerMark, Progress};

/// With more handlers than these a delivery is not handled in place: together they take too long.
const MAX_QUICK_HANDLERS: usize = 4;

/// Up to so many handlers `join_all` keeps in one list, which takes the least. More of them get an allocation
/// each.
const FEW_HANDLERS: usize = 30;

/// A delivery with all its handlers, and how far these had come in earlier deliveries.
#[derive(Clone, Copy)]
pub(super) struct Dispatch<'a> {
    pub(super) work: &'a Work,
    pub(super) handlers: &'a [Arc<Handler>],
    pub(super) known: &'a Progress,
}

impl Dispatcher {
    /// Runs the handlers of a delivery that are due, and draws its settlement. `None` if the last
    /// handler's transaction has settled it. A delivery that was cancelled before anything changed is
    /// to be released.
    pub(crate) async fn dispatch(&self, work: &Work) -> Option<Settle> {
        let received = &work.received;
        let handlers = self.registry.find(&received.queue, &received.envelope);
        if handlers.is_empty() {
            return Some(self.unknown(work));
        }

        let known = Progress::from_headers(&received.headers);
        let is_due = |handler: &&Arc<Handler>| is_due(handler, &known, received.clock);
        let mut due = Cow::Borrowed(&*handlers);
        if !handlers.iter().all(|handler| is_due(&handler)) {
            due = handlers.iter().filter(is_due).cloned().collect();
        }
        if !are_quick(&due) {
            in_a_task().await;
        }

        let dispatch = Dispatch {
            work,
            handlers: &handlers,
            known: &known,
        };
        let paused = &work.admission.paused;
        let mut held = Vec::new();
        if due.iter().any(|handler| paused.holds(handler)) {
            let due = due.to_mut();
            held.extend(due.extract_if(.., |handler| paused.holds(handler)));
        }

        let mut ran = self.run_due(&dispatch, &due).await;
        ran.extend(held.iter().map(|handler| (&**handler, RunOutcome::Held)));
        self.conclude(work, &handlers, known, ran)
    }

    /// Runs handlers in their stated order; those of one order run concurrently.
    async fn run_due<'h>(
        &self,
        dispatch: &Dispatch<'_>,
        due: &'h [Arc<Handler>],
    ) -> Vec<(&'h Handler, RunOutcome)> {
        let Dispatch {
            work,
            handlers,
            known,
        } = *dispatch;
        let order = CommitOrder::of(handlers, &work.received, &self.services, known).map(Box::new);
        let place = self.place(due, work);
        let begin = |count| {
            if let Some(place) = &place {
                place.begin(count);
            }
        };

        let mut ran = Vec::with_capacity(due.len());
        // The common case needs no list of futures: without this, an event takes 1,200 instructions more
        // (benchmark case `dispatch`).
        if let [handler] = due {
            begin(1);
            let run = self.run_and_commit(handler, dispatch, place.as_deref(), order.as_deref());
            ran.push((&**handler, run.await));
            return ran;
        }

        for group in due.chunk_by(|a, b| a.order == b.order) {
            begin(group.len());
            let runs = group.iter().map(|handler| {
                self.run_and_commit(handler, dispatch, place.as_deref(), order.as_deref())
            });
            let running = match group.len() {
                0..=FEW_HANDLERS => Either::Left(join_all(runs)),
                // In a box: most deliveries need no room for it.
                _ => Either::Right(Box::pin(join(runs))),
            };
            let outcomes = running.await;
            ran.extend(group.iter().map(|handler| &**handler).zip(outcomes));
        }
        ran
    }

    async fn run_and_commit(
        &self,
        handler: &Handler,
        dispatch: &Dispatch<'_>,
        place: Option<&Place<'_>>,
        order: Option<&CommitOrder<'_>>,
    ) -> RunOutcome {
        let mut outcome = self.run(handler, dispatch, place).await;
        if let Some(order) = order {
            outcome = Box::pin(order.finish(handler, outcome)).await;
        }

        if let Some(place) = place {
            place.end();
        }
        outcome
    }

    /// Runs the handlers of a control event. Their errors are only logged: a consumer stops whatever
    /// its handlers do.
    pub(crate) async fn control(&self, work: &Work) -> Vec<Outgoing> {
        let received = &work.received;
        let handlers = self.registry.find(&received.queue, &received.envelope);
        let dispatch = Dispatch {
            work,
            handlers: &handlers,
            known: &Progress::default(),
        };
        let runs = handlers
            .iter()
            .map(|handler| self.run(handler, &dispatch, None));

        let mut outgoing = Vec::new();
        for (handler, outcome) in handlers.iter().zip(join_all(runs).await) {
            match outcome {
                RunOutcome::Done(events, _) => outgoing.extend(events),
                RunOutcome::Failed(failure) => {
                    let error = failure.text();
                    log_delivery!(warn, received, handler = %handler.name, error, "handler failed");
                }
                RunOutcome::Cancelled
                | RunOutcome::Held
                | RunOutcome::Marked
                | RunOutcome::Settled
                | RunOutcome::StoreFailed(_) => {}
            }
        }
        outgoing
    }

    /// Runs one handler once. Within a consumer its delivery has a place there.
    pub(super) async fn run(
        &self,
        handler: &Handler,
        dispatch: &Dispatch<'_>,
        place: Option<&Place<'_>>,
    ) -> RunOutcome {
        let Dispatch {
            work,
            handlers,
            known,
        } = *dispatch;
        let received = &work.received;
        let earlier = known.0.get(&handler.name);
        let attempt = HandlerMark::attempt_after(earlier);

        if let (Invoke::Batch(invoke), Some(limits)) =
            (&handler.invoke, self.batches.get(&handler.name))
        {
            let member = Member {
                attempt: Attempt {
                    received: Arc::clone(received),
                    number: attempt,
                },
                done: HandlerMark::done_after(earlier),
                is_sole: handlers.len() == 1,
            };
            // One that failed, or that may have killed its worker, must not do it to others.
            let is_alone = attempt > 1 || received.unsettled_deliveries() > 1;
            let runner = self.batch_runner(handler, invoke);
            // In a box, as everything that only some deliveries wait for: the others need no room for it.
            let rights = (&work.admission, place);
            return Box::pin(run_in_batch(runner, *limits, member, is_alone, rights)).await;
        }

        let limit = self.limits.get(&handler.name);
        // A handler that waits for nothing is called as soon as its delivery is polled.
        let may_wait = limit.is_some() || handler.transactions > 0;
        let backlog = limit.and_then(|_| work.admission.backlogs.index(&handler.name));
        let start = may_wait.then(|| work.admission.calling(backlog));

        let permitted = match (limit, place) {
            (None, _) => Some(None),
            (Some(limit), Some(place)) => {
                let cancelled = received.lease.cancel();
                place.permit(limit, cancelled).await.map(Some)
            }
            (Some(_), None) => {
                let cancelled = received.lease.cancel().cancelled();
                permit(limit, &work.admission, cancelled).await
            }
        };
        let Some(_permit) = permitted else {
            return RunOutcome::Cancelled;
        };
        // It may have waited for long.
        if let Err(why) = work.admission.paused.check(handler) {
            return why.into();
        }

        let timeout = self.timeout(handler);
        attempt::run(handler, received, &self.services, (attempt, timeout), start).await
    }

    /// The place of a delivery in its consumer, if one of its handlers may have to wait. In a box:
    /// most deliveries have none.
    fn place<'w>(&self, due: &[Arc<Handler>], work: &'w Work) -> Option<Box<Place<'w>>> {
        let may_wait = due.iter().any(|handler| {
            matches!(handler.invoke, Invoke::Batch(_)) || self.limits.contains_key(&handler.name)
        });
        may_wait.then(|| Box::new(Place::of(work)))
    }

    /// The backlogs of those handlers with a limit that are due on a delivery.
    pub(crate) fn backlogs_of(&self, work: &Work) -> Vec<usize> {
        let received = &work.received;
        let backlogs = &work.admission.backlogs;
        let handlers = self.registry.find(&received.queue, &received.envelope);
        let limited = handlers
            .iter()
            .filter_map(|handler| Some((handler, backlogs.index(&handler.name)?)));
        let limited: Vec<_> = limited.collect();
        // Reading the marks costs more than this look.
        if limited.is_empty() {
            return Vec::new();
        }

        let known = Progress::from_headers(&received.headers);
        let paused = &work.admission.paused;
        // One that is paused does not wait for its limit.
        let due = limited.into_iter().filter(|(handler, _)| {
            is_due(handler, &known, received.clock) && !paused.holds(handler)
        });
        due.map(|(_, backlog)| backlog).collect()
    }
}

/// Whether handlers are likely to end at their first poll. One with a transaction or batches waits.
fn are_quick(due: &[Arc<Handler>]) -> bool {
    let mut handlers = due.iter();
    due.len() <= MAX_QUICK_HANDLERS
        && handlers.all(|handler| {
            let waits = handler.transactions > 0 || matches!(handler.invoke, Invoke::Batch(_));
            !waits && handler.quickness.is_quick()
        })
}

/// Whether a handler is to run on a delivery now.
fn is_due(handler: &Handler, known: &Progress, clock: EngineClock) -> bool {
    let mark = known.0.get(&handler.name);
    mark.is_none_or(|mark| mark.is_due(clock.now()))
}
