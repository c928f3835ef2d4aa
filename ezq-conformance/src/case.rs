//! A case: one named rule of the contract, and how it is examined.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::Harness;
use crate::error::{CaseError, CaseResult};
use crate::stage::Stage;

/// A case that takes longer than this is taken to hang.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) type CaseFuture<'a> = Pin<Box<dyn Future<Output = CaseResult> + Send + 'a>>;
pub(crate) type CaseFn = for<'a, 'h> fn(&'a Stage<'h>) -> CaseFuture<'a>;

/// The result of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The engine keeps the rule.
    Passed,
    /// The engine breaks the rule; what was seen.
    Failed(String),
    /// The rule cannot be examined on this engine or harness; why.
    Skipped(String),
}

/// One rule of the contract, named for what it states.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    run: CaseFn,
}

impl Case {
    pub(crate) const fn new(name: &'static str, run: CaseFn) -> Self {
        Self { name, run }
    }

    /// Its name, which states the rule.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Examines an engine, in queues of the case's own. The queues of a case that fails are kept.
    ///
    /// It takes two minutes at most; a case that takes longer has failed.
    pub async fn run(&self, harness: &dyn Harness) -> Verdict {
        let result = tokio::time::timeout(PATIENCE, async {
            let stage = Stage::open(harness).await?;
            (self.run)(&stage).await?;
            // Only after success: `?` above leaves the queues of a failed case to be looked at.
            stage.close().await;
            Ok(())
        });
        match result.await {
            Ok(Ok(())) => Verdict::Passed,
            Ok(Err(CaseError::Failed(what))) => Verdict::Failed(what),
            Ok(Err(CaseError::Skipped(why))) => Verdict::Skipped(why),
            Err(_) => Verdict::Failed(format!("still under way after {PATIENCE:?}")),
        }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}
