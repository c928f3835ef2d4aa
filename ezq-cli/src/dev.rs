//! `ezq dev`: a development Postgres, for as long as the command runs.

use ezq::Ezq;
use ezq::pgmq::embedded::EmbeddedPostgres;
use serde_json::json;

use crate::demo::Demo;
use crate::failure::Failure;
use crate::session::Session;
use crate::stopping::Signals;
use crate::ui;

pub(crate) async fn run(session: &Session, has_demo: bool) -> Result<(), Failure> {
    let signals = Signals::new()?;
    let server = EmbeddedPostgres::builder().start().await?;
    let ran = match has_demo {
        true => demo(session, &server.url(), signals).await,
        false => database(session, &server.url(), signals).await,
    };
    // Its data goes with it, and there is nobody to wait for.
    let stopped = server.stop(false).await;
    ran?;
    Ok(stopped?)
}

async fn database(session: &Session, url: &str, signals: Signals) -> Result<(), Failure> {
    // Installs PGMQ.
    let ezq = Ezq::builder()
        .without_discovered_handlers()
        .database_url(url)
        .connect()
        .await?;
    ezq.close().await;

    match session.global.json {
        true => session.output.lines(&[json!({"database_url": url})])?,
        false => session.output.data(&url)?,
    }
    session
        .output
        .note("Ctrl-C ends the database, and deletes what it holds");
    signals.received().await;
    Ok(())
}

async fn demo(session: &Session, url: &str, signals: Signals) -> Result<(), Failure> {
    let demo = Demo::start(url).await?;
    let dashboard = ui::address(&demo.server);
    match session.global.json {
        true => session
            .output
            .lines(&[json!({"database_url": url, "dashboard": dashboard})])?,
        false => session.output.data(&format!("{url}\n{dashboard}"))?,
    }
    session.output.note(
        "The second line is the dashboard: it lets in one browser, within an hour. Ctrl-C ends all, \
         and deletes the database",
    );
    demo.run(signals).await
}
