//! `consume_archive`: like `consume`, but handled events are moved to the archive. The reference archives
//! with `pgmq.archive`.

use ezq::message::Retention;

use super::consume;
use crate::case::Case;
use crate::outcome::Target;

pub(super) const CASE: Case = Case {
    name: "consume_archive",
    about: "the same with an archive; against read(100) and archive",
    unit: "events/s",
    target: Some(Target::AtLeast(1.0)),
    run: |options, database| Box::pin(consume::run(&CASE, options, database, Retention::ARCHIVE)),
};
