//! The result of a case's steps.

use ezq_core::{Error, error_chain};

pub(crate) type CaseResult = Result<(), CaseError>;

/// Why a case did not pass.
#[derive(Debug)]
pub(crate) enum CaseError {
    Failed(String),
    Skipped(String),
}

impl From<Error> for CaseError {
    fn from(error: Error) -> Self {
        Self::Failed(format!("{:?}: {}", error.kind(), error_chain(&error)))
    }
}
