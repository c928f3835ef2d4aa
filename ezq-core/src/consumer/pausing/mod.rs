//! What a consumer does while its queue, or a handler of its queue, is paused.
//!
//! Consumers learn of pauses from the engine, see [`Pauses`](crate::engine::Pauses), and claim only once
//! they know what is paused.
//!
//! # A paused queue
//!
//! Nothing is claimed and nothing begins. What waited goes back to its place; what runs goes on. A queue
//! of which every handler is paused counts as paused, since there is nothing to claim.
//!
//! A control event is a message, and must be found all the same. So the consumer searches the ids that
//! came since it last looked for control events, and leases one by its id. Such an `End` ends the
//! consumer once what runs has ended, and an `Interrupt` cancels what runs: what stands before them stays
//! in the queue. Stops from outside need no claim, and work as ever. A consumer that runs until its
//! queue is idle ends, since nothing can be handled.
//!
//! # A paused handler
//!
//! Its events are claimed, since others may handle them too. They are put aside for it: due again once
//! they have waited for about as long as the pause has lasted. When the handler is resumed, they are made
//! due at once, by whoever resumes it. A consumer that heard of it late may have put aside some more,
//! so each consumer does the same a little after it has heard.
//!
//! | to see | open |
//! |---|---|
//! | what is paused, from the engine to the handlers | `watch.rs` |
//! | control events in a paused queue | `search.rs` |
//! | events of a handler that was resumed | `release.rs` |

pub(crate) mod release;
pub(crate) mod search;
pub(crate) mod watch;
