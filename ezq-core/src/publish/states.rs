//! The states that handlers ask for, one of each type. What a module lacks is looked for in the module
//! around it, and at last in the application.
//!
//! A state is given as a value, or made of another state when the application is built. So the order in
//! which they are given does not matter.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

type Value = Box<dyn Any + Send + Sync>;
type MakeValue = Box<dyn Fn(&States) -> Option<Value> + Send + Sync>;

/// The states of an application or of one of its modules.
#[derive(Default)]
pub(crate) struct States {
    own: HashMap<TypeId, Value>,
    /// Those that are made of others once all are known.
    parts: Vec<Part>,
    /// For each state that could not be made, the type that it should have been made of.
    unmade: HashMap<TypeId, &'static str>,
    /// Where a type is looked for that is not among these.
    outer: Option<Arc<States>>,
}

/// A state that is made of another one.
struct Part {
    part: TypeId,
    whole: &'static str,
    make: MakeValue,
}

impl States {
    pub(crate) fn insert<T: Clone + Send + Sync + 'static>(&mut self, state: T) {
        self.own.insert(TypeId::of::<T>(), Box::new(state));
    }

    /// Makes a state of type `T` of the one of type `S`, once all are known.
    pub(crate) fn insert_part<S, T>(&mut self, part: impl Fn(&S) -> T + Send + Sync + 'static)
    where
        S: Send + Sync + 'static,
        T: Clone + Send + Sync + 'static,
    {
        self.parts.push(Part {
            part: TypeId::of::<T>(),
            whole: type_name::<S>(),
            make: Box::new(move |states| {
                let whole = states.get::<S>()?;
                Some(Box::new(part(whole)))
            }),
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.parts.is_empty()
    }

    /// Makes the states that are made of others, in the order in which they were given. What is not
    /// here is looked for in `outer` from now on.
    pub(crate) fn complete(mut self, outer: Option<Arc<Self>>) -> Arc<Self> {
        self.outer = outer;
        for part in std::mem::take(&mut self.parts) {
            match (part.make)(&self) {
                Some(value) => {
                    self.own.insert(part.part, value);
                }
                None => {
                    self.unmade.insert(part.part, part.whole);
                }
            }
        }
        Arc::new(self)
    }

    pub(crate) fn holds<T: 'static>(&self) -> bool {
        self.get::<T>().is_some()
    }

    pub(crate) fn find<T: Clone + 'static>(&self) -> Option<T> {
        self.get().cloned()
    }

    /// The type of which a missing state should have been made, if there is one.
    pub(crate) fn unmade_of<T: 'static>(&self) -> Option<&'static str> {
        let own = self.unmade.get(&TypeId::of::<T>()).copied();
        own.or_else(|| self.outer.as_ref()?.unmade_of::<T>())
    }

    fn get<T: 'static>(&self) -> Option<&T> {
        match self.own.get(&TypeId::of::<T>()) {
            Some(state) => state.downcast_ref(),
            None => self.outer.as_ref()?.get(),
        }
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "States({})", self.own.len())
    }
}
