//! A delivery at work.
//!
//! # The path of a delivery
//!
//! | station | type | why it differs from the one before |
//! |---|---|---|
//! | claimed | [`Delivery`](crate::engine::Delivery) | engines make it; its body may be unreadable |
//! | read, by `consumer::intake` | [`Received`](received::Received), in an `Arc` | decoded, and never changed: its handlers, what they publish and its settlement share it |
//! | waiting, then dispatched | `dispatch::work::Work` | belongs to one owner: the rights that it holds in its consumer end with its handlers |
//! | one handler at it | [`Attempt`](attempt::Attempt) | each handler counts its own attempts |
//! | concluded | `consumer::settle::settlement::PendingSettlement` | its handlers have ended, and the outcome is tried until the store has it |
//!
//! `Context`, which handlers see, and `Member`, a delivery in a batch, each hold an `Attempt` with what
//! only they need.
//!
//! `Received` owns the receipt. A delivery that no handler is to see is settled by its bare receipt. The
//! tables that look deliveries up (leases, lanes, settlements in flight) keep copies of it as keys. A
//! newer receipt of the same message belongs to the [lease](lease::Lease).

pub(crate) mod attempt;
pub(crate) mod lane_guard;
pub(crate) mod lease;
pub(crate) mod received;
