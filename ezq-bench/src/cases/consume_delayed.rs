//! `consume_delayed`: whether events that are due tomorrow slow down events that are due now. Twice as many
//! stand ahead of a backlog. The reference is ezq's own `consume` without them.

use serde_json::json;

use crate::application::{Application, Job};
use crate::case::Case;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::pairs::Pairs;
use crate::payload::Payload;
use crate::queues::Template;

pub(super) const CASE: Case = Case {
    name: "consume_delayed",
    about: "twice as many events due tomorrow stand ahead of a backlog; against itself without",
    unit: "events/s",
    target: Some(Target::AtLeast(0.8)),
    run: |options, database| Box::pin(run(options, database)),
};

const EVENTS: usize = 50_000;

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let application = Application::counting(database.url()).await?;
    let ezq = &application.ezq;
    let events = options.events.unwrap_or(EVENTS);
    let mut delayed = Template::create(ezq, "delayed").await?;
    delayed
        // Published first, so that they have the lower ids and stand ahead in the table.
        .add(ezq, (0..2 * events).map(Payload::new), true)
        .await?;
    delayed
        .add(ezq, (0..events).map(Payload::new), false)
        .await?;
    let plain = Template::plain(ezq, CASE.name, events).await?;

    let pairs = Pairs::measure(
        CASE.name,
        options.pairs(),
        |n| application.work_off(&delayed, Job::new(CASE.name, "ezq", n)),
        |n| application.work_off(&plain, Job::new(CASE.name, "plain", n)),
    )
    .await?;

    let later = delayed.later;
    delayed.drop(ezq).await?;

    let mut settings = application.close(database, plain).await?;
    settings.insert("delayed".into(), json!(later));
    Ok(vec![Outcome::of(
        CASE.measure(),
        Figures::Pairs(pairs),
        settings,
    )])
}
