//! Why a case, or one of its steps, did not pass.

use ezq_core::Error;
use ezq_core::error::error_chain;

pub(crate) type CaseResult = Result<(), CaseError>;

/// Why a case did not pass.
#[derive(Debug)]
pub(crate) enum CaseError {
    /// What was seen.
    Failed(String),
    /// Why the rule cannot be examined.
    Skipped(String),
}

impl From<Error> for CaseError {
    fn from(error: Error) -> Self {
        Self::Failed(format!("{:?}: {}", error.kind(), error_chain(&error)))
    }
}
