//! All cases, one file for each part of the contract.

/// The cases of a file, each under the name of its function.
macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        pub(super) const CASES: &[$crate::case::Case] = &[
            $($crate::case::Case::new(stringify!($name), |stage| Box::pin($name(stage)))),+
        ];
    };
}

mod after;
mod archive;
mod audit;
mod broadcast;
mod browse;
mod cancellations;
mod concurrency;
mod dead_letters;
mod dedupe;
mod fencing;
mod following;
mod history;
mod keys;
mod leasing;
mod operations;
mod overview;
mod pauses;
mod poison;
mod presence;
mod publishing;
mod queues;
mod schedule;
mod settling;
mod subscriptions;
mod ticks;
mod transactions;

use crate::Case;

/// Every case of the suite, in the order in which [`run`](crate::run) runs them. For a test harness
/// that shows each on its own.
#[must_use]
pub fn cases() -> Vec<Case> {
    let files = [
        publishing::CASES,
        leasing::CASES,
        after::CASES,
        settling::CASES,
        fencing::CASES,
        concurrency::CASES,
        keys::CASES,
        dead_letters::CASES,
        archive::CASES,
        history::CASES,
        dedupe::CASES,
        subscriptions::CASES,
        broadcast::CASES,
        poison::CASES,
        schedule::CASES,
        ticks::CASES,
        queues::CASES,
        overview::CASES,
        pauses::CASES,
        cancellations::CASES,
        browse::CASES,
        following::CASES,
        presence::CASES,
        operations::CASES,
        audit::CASES,
        transactions::CASES,
    ];
    files.concat()
}
