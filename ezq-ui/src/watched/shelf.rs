//! Figures of many things, such as of each queue, which are read for those only that somebody looks at.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::watched::Watched;

/// So many are remembered without a viewer.
const KEPT: usize = 64;

type Make<K, T> = Box<dyn Fn(&K) -> Watched<T> + Send + Sync>;
type Kept<K, T> = BTreeMap<K, Arc<Watched<T>>>;

/// [`Watched`] figures by what they are of.
pub(crate) struct Shelf<K, T> {
    make: Make<K, T>,
    kept: Mutex<Kept<K, T>>,
}

impl<K: Ord + Clone, T: Send + Sync + 'static> Shelf<K, T> {
    pub(crate) fn new(make: impl Fn(&K) -> Watched<T> + Send + Sync + 'static) -> Self {
        Self {
            make: Box::new(make),
            kept: Mutex::default(),
        }
    }

    /// The figures of one thing, the same for all viewers.
    pub(crate) fn of(&self, key: &K) -> Arc<Watched<T>> {
        let mut kept = self.kept();
        if let Some(found) = kept.get(key) {
            return Arc::clone(found);
        }
        if kept.len() >= KEPT {
            kept.retain(|_, watched| watched.is_looked_at());
        }
        let made = Arc::new((self.make)(key));
        kept.insert(key.clone(), Arc::clone(&made));
        made
    }

    /// Says that an action has changed figures: the next look at any of them waits for newer ones.
    pub(crate) fn change(&self) {
        for watched in self.kept().values() {
            watched.change();
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept<K, T>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
