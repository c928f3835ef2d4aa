//! `wide`: whether many events at once cost more than a few. It works off a backlog with a no-op handler
//! at a concurrency of 256. The reference is ezq itself at 16.

use serde_json::json;

use crate::application::{Application, Job};
use crate::case::Case;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::pairs::Pairs;
use crate::queues::Template;

pub(super) const CASE: Case = Case {
    name: "wide",
    about: "a backlog, no-op handler, concurrency 256; against itself with 16",
    unit: "events/s",
    target: Some(Target::AtLeast(0.9)),
    run: |options, database| Box::pin(run(options, database)),
};

const EVENTS: usize = 100_000;
const WIDE: usize = 256;
const NARROW: usize = 16;

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let application = Application::counting(database.url()).await?;
    let events = options.events.unwrap_or(EVENTS);
    let template = Template::plain(&application.ezq, CASE.name, events).await?;
    let at = |side, n, concurrency| Job {
        concurrency,
        ..Job::new(CASE.name, side, n)
    };

    let pairs = Pairs::measure(
        CASE.name,
        options.pairs(),
        |n| application.work_off(&template, at("wide", n, WIDE)),
        |n| application.work_off(&template, at("narrow", n, NARROW)),
    )
    .await?;

    let mut settings = application.close(database, template).await?;
    settings.insert("concurrency".into(), json!(WIDE));
    settings.insert("reference_concurrency".into(), json!(NARROW));
    Ok(vec![Outcome::of(
        CASE.measure(),
        Figures::Pairs(pairs),
        settings,
    )])
}
