//! What the command line says about the size of the cases.

/// The size of the runs. A case has defaults of its own.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) pairs: Option<usize>,
    /// The events of one run.
    pub(crate) events: Option<usize>,
}

impl Options {
    /// How many pairs are measured.
    pub(crate) fn pairs(&self) -> usize {
        self.repetitions(7)
    }

    /// The number of repetitions of a case that repeats `default` times unless told otherwise.
    pub(crate) fn repetitions(&self, default: usize) -> usize {
        self.pairs.unwrap_or(default)
    }
}
