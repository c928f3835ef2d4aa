//! Dispatch: running the handlers of one delivery.

pub(crate) mod attempt;
pub(crate) mod batch_attempt;
pub(crate) mod batcher;
pub(crate) mod commit;
pub(crate) mod commit_order;
pub(crate) mod dispatcher;

pub(crate) mod gathering;
pub(crate) mod hindrance;
pub(crate) mod in_place;
pub(crate) mod inline;
pub(crate) mod limits;
pub(crate) mod registry;
pub(crate) mod slots;
pub(crate) mod unknown;
