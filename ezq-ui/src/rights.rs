//! The rights of a request: a handler that takes [`Viewer`] or [`Operator`] cannot run without the right.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::access::Grant;
use crate::board::Board;
use crate::failure::Failure;

/// Someone who may look.
pub(crate) struct Viewer {
    /// Whether they may act as well.
    pub(crate) may_act: bool,
}

/// Someone who may act.
pub(crate) struct Operator {
    pub(crate) by: String,
}

impl FromRequestParts<Board> for Viewer {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, board: &Board) -> Result<Self, Failure> {
        match board.access.grant(parts) {
            Grant::Forbidden => Err(Failure::forbidden("You may not see this dashboard.")),
            Grant::Read => Ok(Self { may_act: false }),
            Grant::Act { .. } => Ok(Self { may_act: true }),
        }
    }
}

impl FromRequestParts<Board> for Operator {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, board: &Board) -> Result<Self, Failure> {
        match board.access.grant(parts) {
            Grant::Act { by } => Ok(Self { by }),
            Grant::Forbidden | Grant::Read => Err(Failure::forbidden(
                "You may look at this dashboard, and change nothing.",
            )),
        }
    }
}
