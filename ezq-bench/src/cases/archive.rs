//! `archive`: what it costs to keep what is handled.
//!
//! As `consume`, with an archive; the reference is ezq itself, deleting.

use ezq::Retention;

use super::{Case, consume};
use crate::Result;
use crate::arguments::Arguments;
use crate::database::Database;
use crate::outcome::{Figures, Outcome};
use crate::pairs::Pairs;

pub(super) const CASE: Case = Case {
    name: "archive",
    about: "a backlog, no-op handler, concurrency 64, archive; against the same with delete",
    unit: "events/s",
    run: |arguments, database| Box::pin(run(arguments, database)),
};

async fn run(arguments: &Arguments, database: &Database) -> Result<Outcome> {
    let events = arguments.events.unwrap_or(consume::EVENTS);
    let (ezq, handled) = consume::open(database).await?;
    let bytes = consume::fill(&ezq, events).await?;
    let work = |n, retention| consume::consume(&ezq, &handled, events, n, retention);
    let pairs = Pairs::measure(
        CASE.name,
        arguments.pairs,
        |n| work(n, Retention::ARCHIVE),
        |n| work(n, Retention::Delete),
    );
    let pairs = pairs.await?;
    let settings = consume::close(ezq, database, events, bytes).await?;
    Ok(Outcome { figures: Figures::Pairs(pairs), settings })
}
