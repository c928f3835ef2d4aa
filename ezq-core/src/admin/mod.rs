//! What operators see and change in a running system: health, histories, dead letters, schedules and
//! subscriptions.
//!
//! Each type here is what a method of [`App`](crate::App) returns; the methods themselves are in
//! `app/`. Cancelling, failing and purging, which need no type of their own, are in
//! `app/operating.rs`. What ezq reports by itself is in `observe/`.
//!
//! | to see | open |
//! |---|---|
//! | dead letters: listed, redriven, discarded | `dead_letters.rs` |
//! | whether engines answer and consumers run | `health.rs` |
//! | the history of one event | `history.rs` |
//! | schedules: listed, paused, fired by hand | `schedules.rs` |
//! | which queues get copies of broadcast events | `subscriptions.rs` |

pub(crate) mod dead_letters;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod schedules;
pub(crate) mod subscriptions;
