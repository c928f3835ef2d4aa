//! The suite can fail: for every case there is a broken engine that it catches.

// The lint exempts test functions, and not what stands beside them.
#![allow(clippy::unwrap_used)]

mod broadcasts;
mod engine;
mod model;
mod schedules;

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::{Broken, Fault};
use ezq_conformance::{Harness, Verdict, cases};
use ezq_core::engine::{Engine, Outgoing};
use ezq_core::message::QueueName;
use ezq_core::message::headers::Headers;

struct BrokenHarness(Arc<Broken>);

#[async_trait::async_trait]
impl Harness for BrokenHarness {
    async fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.0) as Arc<dyn Engine>
    }

    async fn insert_raw(&self, queue: &QueueName, body: &str, headers: Option<&str>) -> bool {
        let Ok(headers) = serde_json::from_str(headers.unwrap_or("null")) else {
            return false;
        };
        let message = Outgoing::new(queue.clone(), body.to_owned(), Headers::from_value(headers));
        self.0.publish(vec![message]).await.is_ok()
    }
}

/// Each fault, with cases that must catch it.
const CAUGHT: &[(Fault, &[&str])] = &[
    (
        Fault::ReversesBatches,
        &[
            "a_batch_comes_out_in_its_order",
            "batches_come_out_one_after_another",
            "before_hands_out_only_what_stands_before_a_place",
        ],
    ),
    (
        Fault::PublishesToOneQueue,
        &[
            "one_call_may_publish_to_several_queues",
            "a_queue_keeps_to_itself",
        ],
    ),
    (
        Fault::RefusesEmptyBatches,
        &["nothing_may_be_published_settled_and_extended"],
    ),
    (Fault::ReadsNumbersAsFloats, &["a_body_keeps_its_values"]),
    (Fault::DropsWhiteSpace, &["a_body_keeps_its_bytes"]),
    (
        Fault::CutsLongBodies,
        &["a_body_of_one_mebibyte_comes_back"],
    ),
    (Fault::DropsHeaders, &["headers_come_back"]),
    (
        Fault::FailsBatchesWhole,
        &[
            "a_refused_body_harms_no_other",
            "an_absurd_delay_harms_no_other",
            "publishing_to_a_missing_queue_harms_no_other",
        ],
    ),
    (Fault::StoresTooMuch, &["a_body_over_the_limit_is_refused"]),
    (
        Fault::DelaysAreEarly,
        &[
            "a_delay_is_neither_early_nor_late",
            "a_time_is_neither_early_nor_late",
            "messages_come_out_by_due_time",
        ],
    ),
    (
        Fault::DelaysInWholeSeconds,
        &[
            "a_delay_is_neither_early_nor_late",
            "a_time_is_neither_early_nor_late",
            "a_time_in_the_past_is_at_once",
        ],
    ),
    (
        Fault::LeasesNothing,
        &["a_lease_hides_the_message_from_everyone"],
    ),
    (
        Fault::LeasesForEver,
        &[
            "an_expired_lease_delivers_again",
            "a_message_stays_in_the_store_until_it_is_settled",
        ],
    ),
    (
        Fault::SharesMessages,
        &[
            "concurrent_workers_never_share_a_message",
            "a_lease_hides_the_message_from_everyone",
        ],
    ),
    (
        Fault::LeasesInAnyOrder,
        &[
            "a_batch_comes_out_in_its_order",
            "messages_come_out_by_due_time",
        ],
    ),
    (
        Fault::IgnoresMax,
        &["no_more_is_handed_out_than_was_asked_for"],
    ),
    (
        Fault::IgnoresBefore,
        &[
            "before_hands_out_only_what_stands_before_a_place",
            "before_stays_exact_while_its_own_message_is_leased",
        ],
    ),
    (
        Fault::IgnoresAfter,
        &[
            "after_hands_out_only_what_stands_after_a_place",
            "after_goes_from_place_to_place_through_a_queue",
            "after_tells_of_nothing_that_stands_before_it",
            "after_a_place_the_order_is_that_of_the_places",
        ],
    ),
    (
        Fault::LosesCounts,
        &[
            "an_expired_lease_delivers_again",
            "a_settled_delivery_does_not_count_as_a_crash",
            "odd_headers_survive_expiry",
        ],
    ),
    (
        Fault::SkipsPoison,
        &[
            "odd_bodies_are_delivered_beside_good_ones",
            "odd_headers_are_delivered_beside_good_ones",
            "odd_headers_take_marks",
            "odd_headers_can_be_released",
            "odd_headers_survive_expiry",
            "headers_that_are_no_object_go_along_to_the_dead_letters",
        ],
    ),
    (
        Fault::CreatesQueues,
        &[
            "leasing_from_a_missing_queue_says_so",
            "publishing_to_a_missing_queue_says_so",
        ],
    ),
    (
        Fault::SaysDueNow,
        &["an_empty_lease_tells_when_the_next_message_falls_due"],
    ),
    (Fault::NeverWakes, &["publishing_wakes_who_waits"]),
    (
        Fault::AcceptsStaleReceipts,
        &[
            "a_stale_ack_changes_nothing",
            "a_stale_ack_archives_nothing",
            "a_stale_retry_changes_nothing",
            "a_stale_dead_letter_changes_nothing",
            "a_stale_release_changes_nothing",
            "a_stale_extension_changes_nothing",
            "a_batch_with_a_stale_receipt_settles_the_rest",
        ],
    ),
    (
        Fault::AcceptsUsedReceipts,
        &[
            "a_second_ack_is_lost",
            "a_receipt_is_void_after_its_retry",
            "a_receipt_is_void_after_its_release",
            "a_purge_voids_receipts",
            "concurrent_acks_in_opposite_order_succeed_once_each",
        ],
    ),
    (
        Fault::VoidsExpiredLeases,
        &["an_expired_lease_holds_until_the_message_is_handed_out_again"],
    ),
    (
        Fault::SettlesAllOrNothing,
        &[
            "a_batch_with_a_stale_receipt_settles_the_rest",
            "outgoing_events_for_a_missing_queue_fail_their_settlement_alone",
            "of_two_settlements_of_one_delivery_the_first_possible_counts",
        ],
    ),
    (
        Fault::DeadlocksOnDisorder,
        &[
            "concurrent_acks_in_opposite_order_succeed_once_each",
            "concurrent_settlements_and_renewals_in_any_order_succeed",
        ],
    ),
    (
        Fault::AcksNothing,
        &[
            "an_acknowledged_message_is_gone",
            "an_archived_message_is_not_handed_out_again",
            "a_mixed_batch_settles_each_in_its_own_way",
        ],
    ),
    (Fault::RetriesAtOnce, &["a_retry_waits_for_its_pause"]),
    (
        Fault::ForgetsProgress,
        &[
            "a_retry_keeps_the_marks_of_every_handler",
            "a_dead_letter_keeps_the_message_and_the_reason",
            "odd_headers_take_marks",
        ],
    ),
    (
        Fault::LosesOutgoing,
        &[
            "outgoing_events_leave_with_every_settlement",
            "archived_messages_leave_with_their_events",
        ],
    ),
    (
        Fault::ReleasesToTheEnd,
        &["a_release_returns_to_its_old_place_at_once"],
    ),
    (
        Fault::SaysExtended,
        &[
            "an_extended_lease_outlasts_its_first_time",
            "extending_is_answered_per_message",
            "a_stale_extension_changes_nothing",
        ],
    ),
    (
        Fault::CancelsAnything,
        &[
            "a_scheduled_message_can_be_taken_back",
            "a_scheduled_message_can_be_moved",
            "a_delivered_message_can_be_neither_taken_back_nor_moved",
        ],
    ),
    (Fault::PurgesNothing, &["a_purge_voids_receipts"]),
    (
        Fault::CountsNothing,
        &[
            "statistics_count_every_state",
            "the_lag_is_how_long_the_oldest_has_been_due",
        ],
    ),
    (
        Fault::EmptiesOnEnsure,
        &["ensuring_a_queue_again_keeps_its_messages"],
    ),
    (
        Fault::BeginsNothing,
        &["transactions_are_refused_where_there_are_none"],
    ),
    (Fault::IsNeverHealthy, &["a_store_that_answers_is_healthy"]),
    (Fault::KeepsNoNul, &["errors_with_any_text_can_be_kept"]),
    (
        Fault::LosesDeadLetters,
        &["a_dead_letter_keeps_the_message_and_the_reason"],
    ),
    (
        Fault::ListsFromTheStart,
        &["dead_letters_are_listed_page_by_page"],
    ),
    (
        Fault::RedrivesNothing,
        &[
            "a_redrive_runs_again_only_what_had_failed",
            "a_redrive_moves_each_message_once",
            "a_redriven_message_can_die_again",
        ],
    ),
    (
        Fault::IgnoresDedupeKeys,
        &[
            "a_second_message_with_a_key_is_a_duplicate_of_the_first",
            "of_equal_keys_in_one_batch_the_first_is_stored",
            "a_key_is_free_again_when_its_window_ends",
            "concurrent_publishers_of_one_key_store_one_message",
            "a_settlement_leaves_out_a_duplicate",
        ],
    ),
    (
        Fault::NamesTheDuplicateItself,
        &[
            "a_second_message_with_a_key_is_a_duplicate_of_the_first",
            "of_equal_keys_in_one_batch_the_first_is_stored",
        ],
    ),
    (
        Fault::KeepsKeysForEver,
        &["a_key_is_free_again_when_its_window_ends"],
    ),
    (Fault::FreesKeysOnSettling, &["a_key_outlives_its_message"]),
    (
        Fault::SharesKeysBetweenQueues,
        &["a_key_counts_in_its_own_queue"],
    ),
    (
        Fault::TakesKeysOfRefused,
        &["a_refused_message_leaves_its_key_free"],
    ),
    (
        Fault::IgnoresKeys,
        &[
            "messages_of_a_key_come_out_one_after_another_by_id",
            "a_key_that_is_leased_is_given_to_nobody_else",
            "a_delayed_message_holds_up_its_key_and_no_other",
            "a_retried_message_holds_up_its_key_and_no_other",
            "a_release_and_an_expired_lease_begin_a_key_again_at_its_first",
            "what_one_call_hands_out_of_a_key_follows_each_other",
            "blocked_keys_are_listed",
            "concurrent_workers_never_hold_one_key_at_once",
        ],
    ),
    (
        Fault::HasOneKey,
        &[
            "a_key_that_is_leased_is_given_to_nobody_else",
            "a_delayed_message_holds_up_its_key_and_no_other",
            "a_retried_message_holds_up_its_key_and_no_other",
        ],
    ),
    (
        Fault::AnyOfAKeyLetsGo,
        &["a_key_waits_for_every_message_of_it_that_is_leased"],
    ),
    (
        Fault::AcksNothing,
        &["what_one_call_hands_out_of_a_key_follows_each_other"],
    ),
    (
        Fault::KeepsDeadLetters,
        &["a_dead_letter_lets_go_of_its_key"],
    ),
    (
        Fault::FiresWhatever,
        &[
            "a_tick_fires_once_when_its_time_has_come",
            "concurrent_processes_fire_a_tick_once",
            "a_tick_that_is_left_out_moves_the_schedule_on",
            "a_paused_schedule_does_not_tick",
            "a_schedule_is_changed_only_by_who_knows_its_definition",
            "a_process_that_has_the_definition_is_seen",
        ],
    ),
    (
        Fault::FiresNothing,
        &["a_schedule_fires_by_hand_and_stays_as_it_is"],
    ),
    (
        Fault::MovesOnBeforeFiring,
        &["a_tick_whose_queue_is_missing_stays"],
    ),
    (
        Fault::ChangesWhatever,
        &["a_schedule_is_changed_only_by_who_knows_its_definition"],
    ),
    (Fault::PausesNothing, &["a_paused_schedule_does_not_tick"]),
    (
        Fault::RemovesNoSchedule,
        &["a_removed_schedule_does_not_fire"],
    ),
    (
        Fault::BlocksNothing,
        &[
            "blocked_keys_are_listed",
            "a_crash_does_not_make_a_later_retry_look_like_a_lease",
        ],
    ),
    (
        Fault::FindsNothingById,
        &[
            "a_message_is_leased_by_its_id_whenever_it_is_due",
            "what_waits_for_a_retry_after_a_crash_is_leased_by_its_id",
        ],
    ),
    (
        Fault::SharesById,
        &["what_a_worker_has_is_leased_by_its_id_to_nobody"],
    ),
    (
        Fault::MistakesHeldUp,
        &["what_a_key_keeps_before_a_place_is_told"],
    ),
    (
        Fault::DiscardsNothing,
        &["a_discarded_dead_letter_is_gone_for_good"],
    ),
    (
        Fault::ArchivesNothing,
        &[
            "an_acknowledged_message_is_archived_with_its_headers",
            "a_trail_tells_of_a_message_that_is_gone",
            "archived_messages_leave_with_their_events",
        ],
    ),
    (
        Fault::ArchivesEverything,
        &["an_acknowledged_message_is_gone_without_an_archive"],
    ),
    (
        Fault::ArchivesControlEvents,
        &["a_control_event_is_not_archived"],
    ),
    (
        Fault::ClaimsNoArchive,
        &["an_archive_is_refused_where_there_is_none"],
    ),
    (
        Fault::TellsNothing,
        &[
            "history_tells_an_event_that_waits",
            "history_finds_an_event_in_the_flat_form",
            "history_finds_an_event_by_its_headers_where_a_codec_wrote_it",
            "history_finds_every_copy",
        ],
    ),
    (
        Fault::TellsOfOthers,
        &["nothing_is_told_of_an_unknown_event"],
    ),
    (Fault::TellsOneCopy, &["history_finds_every_copy"]),
    (
        Fault::TellsWrongStates,
        &[
            "history_tells_an_event_that_waits",
            "history_tells_an_event_that_is_leased",
            "history_tells_an_event_that_is_tried_again",
            "history_tells_a_dead_event",
        ],
    ),
    (
        Fault::MeansPrefixes,
        &[
            "each_subscribed_queue_gets_one_copy",
            "patterns_mean_whole_segments",
        ],
    ),
    (
        Fault::AddsAgain,
        &[
            "a_subscription_stands_once",
            "concurrent_subscribers_add_each_once",
        ],
    ),
    (
        Fault::KeepsSubscriptions,
        &["a_removed_subscription_gets_no_more_copies"],
    ),
    (
        Fault::NeedsEveryQueue,
        &["a_subscribed_queue_that_is_missing_harms_no_other"],
    ),
    (
        Fault::DelaysAreEarly,
        &["a_copy_is_delayed_as_a_published_message"],
    ),
    (Fault::DropsHeaders, &["a_copy_has_headers_and_key"]),
    (
        Fault::IgnoresDedupeKeys,
        &["of_one_dedupe_key_each_queue_stores_one_copy"],
    ),
    (Fault::CopiesInPart, &["a_refused_broadcast_stores_no_copy"]),
    (
        Fault::ForgetsParties,
        &["what_applications_say_of_types_is_told"],
    ),
    (
        Fault::ForgetsDeaths,
        &["history_tells_what_a_redriven_event_had_died_of"],
    ),
];

/// What the memory engine cannot show, broken or not.
const WITHOUT_TRANSACTIONS: [&str; 9] = [
    "a_transaction_archives_what_it_acknowledges",
    "what_a_transaction_claimed_is_archived_with_it",
    "a_transaction_broadcasts_when_it_commits",
    "the_last_handlers_transaction_removes_the_message",
    "an_earlier_handlers_transaction_marks_it_done",
    "a_transaction_that_lost_its_lease_leaves_nothing",
    "an_abandoned_transaction_leaves_the_message_as_it_was",
    "a_transaction_finishes_a_batch_or_nothing_of_it",
    "a_claim_inside_a_transaction_commits_with_it",
];

/// What no store can show that issues each id once.
const WITHOUT_REISSUED_IDS: [&str; 4] = [
    "a_receipt_is_void_for_a_message_that_got_its_id",
    "an_id_takes_back_and_moves_no_message_that_got_it",
    "an_id_moves_and_discards_no_dead_letter_that_got_it",
    "a_transaction_leaves_a_message_that_got_its_id",
];

#[tokio::test(start_paused = true)]
async fn every_fault_is_caught_by_the_cases_that_name_its_rule() {
    let mut missed = Vec::new();
    for (fault, names) in CAUGHT {
        let harness = BrokenHarness(Arc::new(Broken::new(*fault)));
        for case in cases() {
            if !names.contains(&case.name()) {
                continue;
            }
            let verdict = case.run(&harness).await;
            if !matches!(verdict, Verdict::Failed(_)) {
                missed.push((fault, case.name(), verdict));
            }
        }
    }

    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn every_case_can_fail() {
    let all: BTreeSet<_> = cases().iter().map(|case| case.name()).collect();
    let caught = CAUGHT.iter().flat_map(|(_, names)| *names);
    let caught = caught
        .chain(&WITHOUT_TRANSACTIONS)
        .chain(&WITHOUT_REISSUED_IDS);
    let caught: BTreeSet<_> = caught.copied().collect();
    assert_eq!(all, caught);
}
