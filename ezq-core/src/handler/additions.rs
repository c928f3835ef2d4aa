//! What modules add to a run: their states.
//!
//! Most runs have none of it, so it lies in a box of its own: a [`Call`] without stays small, and
//! nothing is allocated for it. Benchmark case: `dispatch`.

use std::sync::Arc;

use crate::handler::context::Call;
use crate::handler::{Handler, Invoke};
use crate::publish::states::States;

/// What was added to one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Additions {
    /// The states of the handler's module.
    pub(crate) states: Option<Arc<States>>,
}

impl Call {
    fn additions(&mut self) -> &mut Additions {
        self.additions.get_or_insert_default()
    }
}

impl Invoke {
    /// This function, with the states of a module.
    pub(crate) fn with_states(self, states: Arc<States>) -> Self {
        match self {
            Self::One(function) => Self::One(Arc::new(move |mut call| {
                call.additions().states = Some(Arc::clone(&states));
                function(call)
            })),
            Self::Batch(function) => Self::Batch(Arc::new(move |mut batch| {
                batch.call.additions().states = Some(Arc::clone(&states));
                function(batch)
            })),
        }
    }
}

impl Handler {
    /// Has the handler find the states of its module.
    pub(crate) fn enclose(mut self) -> Self {
        if let Some(states) = &self.states {
            self.invoke = self.invoke.with_states(Arc::clone(states));
        }
        self
    }
}
