//! What the errors of a replay's statements become.

use ezq_core::{Error, ErrorKind};

use super::options::Options;
use crate::engine::PgmqEngine;
use crate::error::missing;
use crate::retention;
use crate::schema::{Part, out_of_reach};

/// The error of a statement that reads an archive and writes to a queue.
pub(super) fn failed_on(failure: sqlx::Error, engine: &PgmqEngine, options: &Options) -> Error {
    let Options { queue, target, .. } = options;
    match &failure {
        gone if missing::is(gone, &format!("pgmq.q_{target}")) => engine.failed(failure, target),
        gone if missing::is(gone, &format!("pgmq.a_{queue}")) => {
            retention::missing(queue).with_source(failure)
        }
        _ => failed(failure, engine),
    }
}

pub(super) fn failed(failure: sqlx::Error, engine: &PgmqEngine) -> Error {
    out_of_reach(failure, Part::Replays, engine.connector().place())
}

pub(super) fn gone(name: &str) -> Error {
    Error::new(
        ErrorKind::Transient,
        format!("the replay `{name}` was removed just now"),
    )
}
