//! What a consumer does about events that an operator cancels while a worker has them.
//!
//! Consumers learn of cancellations from the engine, see
//! [`Cancellations`](crate::engine::Cancellations). Each settles what it holds under its own receipt, so
//! the fence stays whole:
//!
//! - What runs has its handlers cancelled. Once they have ended, the event becomes a dead letter or is
//!   deleted, as was asked for, whatever they returned. Events that they returned do not go out.
//! - A handler whose transaction has committed counts: if it was the last, the event is handled.
//! - What has not started is settled without its handlers.
//! - What a later claim brings is settled at once: the order stands until somebody has carried it out.
//!
//! A batch without a transaction goes on for its other events for two seconds. Then it is cut off, and they
//! are handled one by one. A batch with a transaction is cut off at once, since it commits as a whole. One
//! that claims in its transaction is not: until it ends, nobody else can see whether it has the event.
//!
//! # When no worker has the event
//!
//! It was given back before its worker heard of the order, or its worker is gone. So each consumer also
//! looks after orders for what it does not hold: it cancels an event that waits, and forgets the order
//! once the event is gone.
//!
//! | to see | open |
//! |---|---|
//! | which events are to be cancelled | `consumer/cancel_orders.rs` |
//! | from the engine to the handlers | `watch.rs` |
//! | orders for what this consumer does not hold | `remaining.rs` |

pub(crate) mod remaining;
pub(crate) mod watch;
