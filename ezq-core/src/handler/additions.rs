//! What modules and layers add to a run: states of a module, values for extractors.
//!
//! Most runs have none of it, so it lies in a box of its own: a [`Call`] without stays small, and
//! nothing is allocated for it. Benchmark case: `dispatch`.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::handler::Invoke;
use crate::handler::context::{Call, Context};
use crate::handler::extract::{Extract, OptionalExtract};
use crate::handler::outcome::HandlerError;
use crate::publish::states::States;

/// What was added to one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Additions {
    /// The states of the handler's module.
    pub(crate) states: Option<Arc<States>>,
    /// The values of layers, one of each type.
    values: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    /// Of a batch, what surrounds each event, while layers run.
    contexts: Vec<Context>,
}

impl Call {
    /// Adds a value for the rest of this run. [`Extension<T>`] hands it to the handler. There is one
    /// value of each type: a second one replaces the first.
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

/// A value that a [layer](crate::handler::Layer) added to the run: a tenant, a transaction of your own,
/// a user. Cloned for each extractor that takes it, so wrap what is large in an `Arc`.
///
/// Without such a value the run fails, and no retry helps. `Option<Extension<T>>` is `None` then.
///
/// ```
/// use ezq_core::handler::{Call, Extension, HandlerResult, Next};
///
/// #[derive(Clone)]
/// struct Tenant(String);
///
/// async fn tenant(mut call: Call, next: Next) -> HandlerResult {
///     let name = call.context().headers().text("tenant").unwrap_or("none").to_owned();
///     call.insert(Tenant(name));
///     next.run(call).await
/// }
///
/// async fn handle(Extension(tenant): Extension<Tenant>) {
///     println!("for {}", tenant.0);
/// }
/// # let _ = ezq_core::app::App::builder().layer(tenant);
/// ```
#[derive(Debug, Clone)]
pub struct Extension<T>(pub T);

impl<T: Clone + Send + Sync + 'static> Extract for Extension<T> {
    async fn extract(call: &Call) -> Result<Self, HandlerError> {
        call.extension().map(Self).ok_or_else(|| {
            let name = type_name::<T>();
            let text = format!(
                "no layer gave a value of type `{name}`: add the layer that calls `call.insert(..)`, \
                 or take `Option<Extension<..>>`"
            );
            HandlerError::fatal(Error::new(ErrorKind::MissingState, text))
        })
    }
}

impl<T: Clone + Send + Sync + 'static> OptionalExtract for Extension<T> {
    async fn extract_optional(call: &Call) -> Result<Option<Self>, HandlerError> {
        Ok(call.extension().map(Self))
    }
}
