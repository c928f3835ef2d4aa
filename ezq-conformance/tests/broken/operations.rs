//! What is wrong with what operators do to the events of a broken engine, and which cases catch it.

use async_trait::async_trait;
use ezq_core::Result;
use ezq_core::engine::{
    ActOutcome, AuditEntry, AuditPage, AuditRequest, Engine as _, EventAction, EventFilter,
    EventRef, Operation, Operations, Preview, Selection, Settle, Signature,
};
use ezq_core::message::QueueName;

use crate::engine::{Broken, Fault};

/// Each fault of these, with cases that must catch it.
pub(super) const CAUGHT: &[(Fault, &[&str])] = &[
    (
        Fault::ActsOnNothing,
        &[
            "a_discarded_event_is_gone_for_good",
            "what_waits_behind_a_discarded_event_of_its_key_goes_on",
            "an_event_that_waits_is_due_at_once_when_it_is_retried",
            "a_moved_event_is_in_the_other_queue_only",
            "dead_letters_are_acted_on_by_their_own_ids",
        ],
    ),
    (
        Fault::ActsOnWhatWorkersHave,
        &["an_event_that_a_worker_has_is_not_acted_on"],
    ),
    (
        Fault::ActsWithoutQueues,
        &["what_does_not_fit_or_has_no_queue_changes_nothing"],
    ),
    (
        Fault::OperatesOnEverything,
        &["an_operation_acts_on_what_matches_and_on_nothing_newer"],
    ),
    (
        Fault::StopsNoOperation,
        &["an_operation_that_was_stopped_goes_on_where_it_ended"],
    ),
    (
        Fault::CountsStepsTwice,
        &["two_clients_share_the_steps_of_one_operation"],
    ),
    (
        Fault::RecordsNothing,
        &[
            "the_audit_trail_tells_who_did_what",
            "what_other_calls_do_is_recorded_before_and_counted_after",
            "a_cancellation_is_recorded",
        ],
    ),
    (
        Fault::IgnoresAuditFilters,
        &["the_trail_is_filtered_by_who_what_and_when"],
    ),
];

#[async_trait]
impl Operations for Broken {
    async fn act(
        &self,
        queue: &QueueName,
        action: &EventAction,
        events: &[EventRef],
        signature: &Signature,
    ) -> Result<Vec<ActOutcome>> {
        match self.fault {
            Fault::ActsOnNothing => return Ok(vec![ActOutcome::Done; events.len()]),
            Fault::ActsOnWhatWorkersHave => {
                let leased = self.newest_of(queue);
                let released = leased.into_iter().map(|receipt| (receipt, Settle::Release));
                self.inner.settle(queue, released.collect()).await?;
            }
            Fault::ActsWithoutQueues => {
                if let Some(to) = action.target() {
                    self.inner.ensure_queue(to).await?;
                }
            }
            _ => {}
        }
        self.inner.act(queue, action, events, signature).await
    }

    async fn preview(&self, selection: &Selection) -> Result<Preview> {
        self.inner.preview(selection).await
    }

    async fn start(
        &self,
        id: &str,
        action: &EventAction,
        selection: &Selection,
        signature: &Signature,
    ) -> Result<Operation> {
        let mut selection = selection.clone();
        if self.is(Fault::OperatesOnEverything) {
            selection.filter = EventFilter::all();
        }
        self.inner.start(id, action, &selection, signature).await
    }

    async fn step(&self, id: &str) -> Result<Operation> {
        let mut operation = self.inner.step(id).await?;
        if self.is(Fault::CountsStepsTwice) {
            operation.done *= 2;
        }
        Ok(operation)
    }

    async fn stop(&self, id: &str, signature: &Signature) -> Result<Operation> {
        match self.is(Fault::StopsNoOperation) {
            true => self.inner.step(id).await,
            false => self.inner.stop(id, signature).await,
        }
    }

    async fn proceed(&self, id: &str, signature: &Signature) -> Result<Operation> {
        self.inner.proceed(id, signature).await
    }

    async fn list_operations(&self, limit: usize) -> Result<Vec<Operation>> {
        self.inner.list_operations(limit).await
    }

    async fn find_operation(&self, id: &str) -> Result<Option<Operation>> {
        self.inner.find_operation(id).await
    }

    async fn record_act(&self, entry: &AuditEntry) -> Result<String> {
        self.inner.record_act(entry).await
    }

    async fn record_count(&self, id: &str, count: u64) -> Result<()> {
        self.inner.record_count(id, count).await
    }

    async fn audit(&self, request: &AuditRequest) -> Result<AuditPage> {
        let mut request = request.clone();
        match self.fault {
            Fault::RecordsNothing => return Ok(AuditPage::default()),
            Fault::IgnoresAuditFilters => {
                request.by = None;
                request.action = None;
                request.since = None;
                request.until = None;
            }
            _ => {}
        }
        self.inner.audit(&request).await
    }
}
