//! One run of a handler: what its extractors draw from, and what modules and layers added to it.
//!
//! Most runs have no additions, so these lie in a box of their own: a [`Call`] without stays small, and
//! nothing is allocated for it. Benchmark case: `dispatch`.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use crate::engine::UnitOfWork;
use crate::handler::context::Context;
use crate::publish::publisher::Publisher;
use crate::publish::services::Services;
use crate::publish::states::States;
use crate::publish::transaction::Transaction;

/// One run of a handler, from which [extractors](crate::handler::Extract) draw, and which
/// [layers](crate::handler::Layer) pass on.
#[derive(Debug, Clone)]
pub struct Call {
    pub(crate) context: Context,
    pub(crate) services: Arc<Services>,
    pub(crate) transaction: Option<Arc<Transaction>>,
    /// The run handles one event, which is the cause of what the handler publishes.
    pub(crate) is_single: bool,
    /// What modules and layers added; most runs have none.
    pub(crate) additions: Option<Box<Additions>>,
}

/// What was added to one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Additions {
    /// The states of the handler's module.
    states: Option<Arc<States>>,
    /// The values of layers, one of each type.
    values: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    /// Of a batch, what surrounds each event, while layers run.
    contexts: Vec<Context>,
}

impl Call {
    /// The context of the run; for a batch, that of its first event.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// A publisher whose events name the handled one as their cause. For a batch they name no cause.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        let publisher = if self.is_single {
            Publisher::caused_by(&self.services, self.context.received())
        } else {
            Publisher::new(Arc::clone(&self.services))
        };
        publisher.within(self.transaction.as_ref())
    }

    /// Lends the handler's transaction to `show`, for the extractor of its engine. `None` if the
    /// transaction has ended, or none of the handler's extractors
    /// [takes](crate::handler::Extract::TRANSACTION) it.
    pub fn unit_of_work<R>(&self, show: impl FnOnce(&mut dyn UnitOfWork) -> R) -> Option<R> {
        self.transaction
            .as_ref()
            .and_then(|transaction| transaction.with(show))
    }

    /// The state of type `T` that the handler's module was given, or else the application; `None` if
    /// neither was.
    #[must_use]
    pub fn state<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        self.states().find()
    }

    /// Adds a value for the rest of this run. [`Extension<T>`](crate::handler::Extension) hands it to
    /// the handler. There is one value of each type: a second one replaces the first.
    pub fn insert<T: Clone + Send + Sync + 'static>(&mut self, value: T) {
        let values = &mut self.additions().values;
        values.insert(TypeId::of::<T>(), Arc::new(value));
    }

    /// The value of type `T` that a layer [added](Self::insert), if one did.
    #[must_use]
    pub fn extension<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        let value = self.additions.as_ref()?.values.get(&TypeId::of::<T>())?;
        value.downcast_ref().cloned()
    }

    /// The context of each event that the run handles: one, or those of a batch, in the order of the
    /// queue.
    #[must_use]
    pub fn contexts(&self) -> &[Context] {
        match &self.additions {
            Some(additions) if !additions.contexts.is_empty() => &additions.contexts,
            _ => std::slice::from_ref(&self.context),
        }
    }

    /// The states of the handler's module, if it has some, or else of the application.
    pub(super) fn states(&self) -> &States {
        let additions = self.additions.as_ref();
        let of_module = additions.and_then(|additions| additions.states.as_ref());
        of_module.unwrap_or(&self.services.states)
    }

    pub(super) fn put_states(&mut self, states: Arc<States>) {
        self.additions().states = Some(states);
    }

    pub(super) fn put_contexts(&mut self, contexts: Vec<Context>) {
        self.additions().contexts = contexts;
    }

    pub(super) fn take_contexts(&mut self) -> Vec<Context> {
        std::mem::take(&mut self.additions().contexts)
    }

    fn additions(&mut self) -> &mut Additions {
        self.additions.get_or_insert_default()
    }
}
