//! How far a consumer's stop has come, and why it stops.
//!
//! A control event stops a consumer at the event's place in the queue. A token, a handle or a signal
//! stops it from outside, see [`listener`].
//!
//! ```text
//!            control event met            nothing left before it
//! Running ───────────────────► Draining ────────────────────────► End: over
//!    │                            │    └─ all handlers called ──► Interrupt: Cancelling
//!    │ request to finish          │
//!    ├───────────────────────► Finishing ── nothing runs ───────► over
//!    │ request to cancel          │
//!    └───────────────────────► Cancelling ── handlers end ──────► over
//! ```
//!
//! # Control events
//!
//! A control event has a place in the queue: (due time, id). Of two control events the earlier
//! counts; the other is left to another consumer.
//!
//! - `End`: what stands before it is fetched (`LeaseRequest::before`) and handled, what stands
//!   after it is released. The `End` stays leased and renewed until then. Its own handlers run
//!   last, then it is settled.
//! - `Interrupt`: what stands before it is fetched and begun as places become free. Once every
//!   handler of it was called, what runs is cancelled and given back, and the `Interrupt` is
//!   settled. A claim that found nothing says by `Leased::is_held_up` whether something of a key
//!   still waits.
//!
//! Once nothing else can come before a control event, a batch that gathers begins as it is. A
//! request from outside that comes meanwhile gives the control event back, with what stands before
//! it. If only handlers still run before an `End`, the request only shortens their time.
//!
//! `stop_all` publishes an `End` that each consumer gives back when it meets it, so that the others
//! meet it too. A consumer that began after it was stored, by the database's clock, leaves it to
//! the others, and removes it once it is ten minutes old.
//!
//! # Requests from outside
//!
//! One listener lives from before the start of a consumer to the end of its last settlement, across
//! restarts. Everything that waits in between waits beside it. It asks once to finish (token,
//! handle, first signal) and once to cancel (interrupt, second signal, end of the grace).
//!
//! - After a request to finish nothing new begins. What gathers for a batch or waits for a
//!   handler's limit goes back.
//! - After a request to cancel the consumer has a second. Handlers that do not end, a claim that is
//!   not answered and settlements that the store does not take are left behind, and are delivered
//!   again when their leases end.
//! - Without a grace, an unanswered claim is given up after five seconds, and settling after ten,
//!   or when the leases end.

pub(crate) mod control;
pub(crate) mod deadline;
pub(crate) mod listener;
mod progress;
pub(crate) mod signals;

pub(crate) use progress::{PATIENCE, Phase, Stop};
