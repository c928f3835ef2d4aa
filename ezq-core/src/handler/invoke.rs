//! The function of a handler, as an attempt calls it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::handler::batch::{BatchCall, BatchFuture};
use crate::handler::call::Call;
use crate::handler::outcome::HandlerError;
use crate::publish::draft::Draft;
use crate::publish::states::States;

/// The future of one run of a handler.
pub type HandlerFuture = Pin<Box<dyn Future<Output = Result<Vec<Draft>, HandlerError>> + Send>>;

/// The function to call.
#[derive(Clone)]
pub(crate) enum Invoke {
    One(Arc<dyn Fn(Call) -> HandlerFuture + Send + Sync>),
    Batch(InvokeBatch),
}

/// The function of a batch handler.
pub(crate) type InvokeBatch = Arc<dyn Fn(BatchCall) -> BatchFuture + Send + Sync>;

impl Invoke {
    /// This function, with the states of a module.
    pub(crate) fn with_states(self, states: Arc<States>) -> Self {
        match self {
            Self::One(function) => Self::One(Arc::new(move |mut call| {
                call.put_states(Arc::clone(&states));
                function(call)
            })),
            Self::Batch(function) => Self::Batch(Arc::new(move |mut batch| {
                batch.call.put_states(Arc::clone(&states));
                function(batch)
            })),
        }
    }
}
