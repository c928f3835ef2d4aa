//! What is wrong with what operators see and steer of a broken engine, and which cases catch it.

use async_trait::async_trait;
use ezq_core::Result;
use ezq_core::engine::{
    Browse, CancelOrder, Cancellations, ConsumerPresence, Engine as _, EventCopy, EventFilter,
    EventPage, EventState, Failures, PageRequest, Pause, PauseTarget, Pauses, Presence,
    QueueCancellations, QueueCounts, QueueOverview, QueuePauses, Sampler, SeenConsumer, Settle,
    TypeSearch,
};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::{HandlerName, MessageId, QueueName};
use tokio::sync::watch;

use crate::engine::{Broken, Fault};

/// Each fault of these, with cases that must catch it.
pub(super) const CAUGHT: &[(Fault, &[&str])] = &[
    (
        Fault::PausesNothing,
        &[
            "a_pause_is_told_to_every_client_and_lasts_until_it_is_resumed",
            "a_handler_is_paused_apart_from_its_queue",
            "a_pause_is_known_to_who_begins_to_watch",
            "a_missing_queue_is_not_paused",
        ],
    ),
    (
        Fault::CancelsNothing,
        &[
            "a_cancellation_is_told_to_every_client_until_it_is_finished",
            "a_cancellation_is_known_to_who_begins_to_watch",
        ],
    ),
    (
        Fault::KeepsTheFirstOrder,
        &["a_second_order_replaces_the_first"],
    ),
    (
        Fault::CancelsWhatIsGone,
        &["only_a_message_of_the_queue_is_cancelled"],
    ),
    (
        Fault::ArchivesWhatIsDiscarded,
        &["a_discarded_message_is_gone_and_not_archived"],
    ),
    (
        Fault::AcceptsStaleReceipts,
        &["a_stale_receipt_discards_nothing"],
    ),
    (
        Fault::FindsNoLetter,
        &["the_dead_letter_of_a_message_is_found"],
    ),
    (
        Fault::ReleasesNothing,
        &["what_is_put_aside_for_a_handler_is_released"],
    ),
    (
        Fault::ReleasesWhatWorkersHave,
        &["what_was_handed_out_since_is_not_released"],
    ),
    (
        Fault::FindsNoTypes,
        &["a_search_finds_messages_of_a_type_wherever_it_is_named"],
    ),
    (
        Fault::ForgetsWhatItFound,
        &["a_search_goes_on_behind_what_it_read"],
    ),
    (
        Fault::ListsTheDead,
        &["queues_are_listed_without_the_places_of_dead_letters"],
    ),
    (
        Fault::CountsNothing,
        &[
            "counts_tell_every_state_apart",
            "the_oldest_is_the_one_that_has_been_due_longest",
            "a_queue_that_does_not_exist_has_no_counts",
        ],
    ),
    (Fault::CountsWithoutEnd, &["counts_stop_at_their_limit"]),
    (Fault::ElectsEverybody, &["one_client_samples_at_a_time"]),
    (
        Fault::NotesNoConsumer,
        &[
            "a_consumer_is_listed_as_it_was_last_noted",
            "the_time_since_a_consumer_was_noted_is_told",
        ],
    ),
    (
        Fault::KeepsConsumers,
        &["a_consumer_that_was_removed_is_not_listed"],
    ),
    (
        Fault::ListsFromTheStart,
        &[
            "pages_hold_every_event_once_and_in_order",
            "a_filter_that_matches_nothing_ends_where_the_search_ends",
            "a_cursor_of_something_else_is_refused",
        ],
    ),
    (
        Fault::TellsWrongStates,
        &["each_state_has_pages_of_its_own"],
    ),
    (
        Fault::IgnoresFilters,
        &[
            "a_filter_selects_by_type_key_and_time",
            "a_filter_selects_by_handler_and_error",
            "a_filter_selects_what_failed_alike",
            "a_filter_selects_dead_letters_by_the_time_of_death",
        ],
    ),
    (
        Fault::DatesTheDeadByBirth,
        &["a_filter_selects_dead_letters_by_the_time_of_death"],
    ),
    (
        Fault::NumbersFromTheStart,
        &["messages_are_read_by_their_numbers"],
    ),
    (Fault::TellsAgain, &["messages_are_read_by_their_numbers"]),
    (
        Fault::TellsNoFailures,
        &["failures_are_counted_by_handler_and_error"],
    ),
    (
        Fault::TellsAllFailures,
        &["failures_are_looked_for_no_further_than_asked"],
    ),
];

#[async_trait]
impl Pauses for Broken {
    async fn pause(&self, target: &PauseTarget, by: &str, reason: Option<&str>) -> Result<bool> {
        if self.is(Fault::PausesNothing) {
            return Ok(true);
        }
        Pauses::pause(&self.inner, target, by, reason).await
    }

    async fn resume(&self, target: &PauseTarget, by: &str) -> Result<bool> {
        self.inner.resume(target, by).await
    }

    async fn list(&self) -> Result<Vec<Pause>> {
        Pauses::list(&self.inner).await
    }

    async fn watch(&self, queue: &QueueName) -> Result<watch::Receiver<QueuePauses>> {
        Pauses::watch(&self.inner, queue).await
    }

    async fn release_held(&self, queue: &QueueName, handler: &HandlerName) -> Result<u64> {
        match self.fault {
            Fault::ReleasesNothing => Ok(0),
            Fault::ReleasesWhatWorkersHave => {
                let leased = self.newest_of(queue);
                let count = leased.len() as u64;
                let release = leased.into_iter().map(|receipt| (receipt, Settle::Release));
                self.inner.settle(queue, release.collect()).await?;
                Ok(count)
            }
            _ => self.inner.release_held(queue, handler).await,
        }
    }

    async fn search(
        &self,
        queue: &QueueName,
        types: &[&str],
        mut so_far: TypeSearch,
    ) -> Result<TypeSearch> {
        match self.fault {
            Fault::FindsNoTypes => return Ok(so_far),
            Fault::ForgetsWhatItFound => so_far.found.clear(),
            _ => {}
        }
        self.inner.search(queue, types, so_far).await
    }
}

#[async_trait]
impl Cancellations for Broken {
    async fn ask(&self, queue: &QueueName, id: &MessageId, order: &CancelOrder) -> Result<bool> {
        match self.fault {
            Fault::CancelsNothing => return Ok(true),
            Fault::KeepsTheFirstOrder => {
                let watcher = Cancellations::watch(&self.inner, queue).await?;
                let is_known = watcher.borrow().iter().any(|one| one.message_id == *id);
                if is_known {
                    return Ok(true);
                }
            }
            Fault::CancelsWhatIsGone => {
                self.inner.ask(queue, id, order).await?;
                return Ok(true);
            }
            _ => {}
        }
        self.inner.ask(queue, id, order).await
    }

    async fn watch(&self, queue: &QueueName) -> Result<watch::Receiver<QueueCancellations>> {
        Cancellations::watch(&self.inner, queue).await
    }

    async fn finish(&self, queue: &QueueName, ids: &[MessageId]) -> Result<()> {
        self.inner.finish(queue, ids).await
    }

    async fn letter_of(&self, queue: &QueueName, id: &MessageId) -> Result<Option<MessageId>> {
        if self.is(Fault::FindsNoLetter) {
            return Ok(None);
        }
        self.inner.letter_of(queue, id).await
    }
}

#[async_trait]
impl QueueOverview for Broken {
    async fn queues(&self) -> Result<Vec<QueueName>> {
        let mut queues = self.inner.queues().await?;
        if self.is(Fault::ListsTheDead) {
            let dead = queues.iter().map(|queue| queue.dead_letters().parse());
            let dead = dead.collect::<Result<Vec<QueueName>>>()?;
            queues.extend(dead);
            queues.sort();
        }
        Ok(queues)
    }

    async fn counts(
        &self,
        queues: &[QueueName],
        cap: u64,
    ) -> Result<Vec<Result<Option<QueueCounts>>>> {
        if self.is(Fault::CountsNothing) {
            let nothing = QueueCounts::new(self.inner.now());
            return Ok(queues.iter().map(|_| Ok(Some(nothing.clone()))).collect());
        }
        let cap = if self.is(Fault::CountsWithoutEnd) {
            u64::MAX
        } else {
            cap
        };
        self.inner.counts(queues, cap).await
    }

    async fn elect_sampler(&self) -> Result<Option<Box<dyn Sampler>>> {
        if self.is(Fault::ElectsEverybody) {
            // Each engine of its own elects its first client.
            return MemoryEngine::new().elect_sampler().await;
        }
        self.inner.elect_sampler().await
    }
}

#[async_trait]
impl Presence for Broken {
    async fn note(&self, running: &[ConsumerPresence]) -> Result<()> {
        if self.is(Fault::NotesNoConsumer) {
            return Ok(());
        }
        self.inner.note(running).await
    }

    async fn remove(&self, id: &str) -> Result<()> {
        if self.is(Fault::KeepsConsumers) {
            return Ok(());
        }
        Presence::remove(&self.inner, id).await
    }

    async fn consumers(&self) -> Result<Vec<SeenConsumer>> {
        self.inner.consumers().await
    }
}

#[async_trait]
impl Browse for Broken {
    async fn page(&self, request: &PageRequest) -> Result<EventPage> {
        let mut request = request.clone();
        match self.fault {
            Fault::ListsFromTheStart => request.after = None,
            Fault::TellsWrongStates => request.state = EventState::Ready,
            Fault::IgnoresFilters => request.filter = EventFilter::all(),
            Fault::DatesTheDeadByBirth => {
                let after = request.filter.stored_after.take();
                let before = request.filter.stored_before.take();
                let mut page = self.inner.page(&request).await?;
                page.events.retain(|event| {
                    after.is_none_or(|time| event.published_at >= time)
                        && before.is_none_or(|time| event.published_at < time)
                });
                return Ok(page);
            }
            _ => {}
        }
        self.inner.page(&request).await
    }

    async fn newest(&self, queue: &QueueName) -> Result<Option<i64>> {
        self.inner.newest(queue).await
    }

    async fn numbered_after(
        &self,
        queue: &QueueName,
        after: i64,
        except: &[i64],
        limit: usize,
    ) -> Result<Vec<EventCopy>> {
        match self.fault {
            Fault::NumbersFromTheStart => self.inner.numbered_after(queue, 0, except, limit).await,
            Fault::TellsAgain => self.inner.numbered_after(queue, after, &[], limit).await,
            _ => self.inner.numbered_after(queue, after, except, limit).await,
        }
    }

    async fn failures(&self, queue: &QueueName, scan: usize) -> Result<Failures> {
        match self.fault {
            Fault::TellsNoFailures => Ok(Failures::default()),
            Fault::TellsAllFailures => self.inner.failures(queue, usize::MAX).await,
            _ => self.inner.failures(queue, scan).await,
        }
    }
}
