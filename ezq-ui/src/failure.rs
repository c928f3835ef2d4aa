//! What a page says when it cannot show what was asked for.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ezq::ErrorKind;
use ezq::error::error_chain;

use crate::text::counted;

/// After so long a question to the database is given up.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

/// A failure to be shown as a page. It travels in the extensions of a response, because the frame of the
/// page depends on the request: see [`crate::frame::show_failures`].
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    /// What was probably meant: its name, and its place inside the dashboard.
    pub(crate) suggestion: Option<(String, String)>,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            suggestion: None,
        }
    }

    pub(crate) fn forbidden(text: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, text)
    }

    pub(crate) fn missing(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(crate) fn wrong(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// The same, for an action that was done to some before it failed.
    pub(crate) fn after(mut self, count: usize, noun: &str) -> Self {
        if count > 0 {
            let done = counted(u64::try_from(count).unwrap_or(u64::MAX), noun);
            self.text = format!("It was done to {done}. Then: {}", self.text);
        }
        self
    }

    /// The database did not answer in time.
    pub(crate) fn slow() -> Self {
        let text = format!(
            "The database gave no answer within {LIMIT:?}. An action may still be done: look before you \
             repeat it."
        );
        Self::new(StatusCode::GATEWAY_TIMEOUT, text)
    }
}

impl From<ezq::Error> for Failure {
    fn from(error: ezq::Error) -> Self {
        let status = match error.kind() {
            ErrorKind::QueueMissing | ErrorKind::ScheduleMissing | ErrorKind::OperationMissing => {
                StatusCode::NOT_FOUND
            }
            ErrorKind::InvalidQueueName | ErrorKind::InvalidPattern | ErrorKind::Configuration => {
                StatusCode::BAD_REQUEST
            }
            // The role of the dashboard lacks the right, whatever the policy says.
            ErrorKind::Permission | ErrorKind::SchemaMissing => StatusCode::FORBIDDEN,
            ErrorKind::LeaseLost | ErrorKind::ScheduleTaken => StatusCode::CONFLICT,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error_chain(&error))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
