//! Whatever names a queue is accepted wherever a queue is named, and a wrong name is an error there.

use ezq_core::app::App;
use ezq_core::consumer::StopReason;
use ezq_core::handler::{AnyEvent, Handler};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::{IntoQueueName, MessageId, QueueName, Retention};
use ezq_core::schedule::Schedule;
use ezq_core::testing::TestApp;
use ezq_core::{Error, ErrorKind};

use crate::fixtures::Step;

const WRONG: &str = "no queue!";

fn forms(name: &str) -> (&str, String, QueueName) {
    (name, name.to_owned(), QueueName::new(name).unwrap())
}

#[test]
fn a_name_has_five_forms() {
    let (text, string, queue) = forms("Mail");
    let named = [
        text.into_queue_name(),
        (&string).into_queue_name(),
        string.clone().into_queue_name(),
        (&queue).into_queue_name(),
        queue.clone().into_queue_name(),
    ];
    for name in named {
        assert_eq!(name.unwrap(), queue);
    }
}

#[tokio::test(start_paused = true)]
async fn every_call_takes_any_form() {
    let (text, string, queue) = forms("mail");
    let app = TestApp::new(|app| {
        app.queue(text)
            .retention(&string, Retention::ARCHIVE)
            .queue_codec(&queue, "raw")
            .named_engine("other", MemoryEngine::new())
            .queue_engine("elsewhere", "other")
            .event_queue(|event_type| (event_type == "never").then_some("mail"))
            .schedule("ticks", Schedule::every("1h").queue(&queue), &Step { n: 0 })
            .register(Handler::on("all", |_: AnyEvent| async {}).queue(queue.clone()))
    })
    .unwrap();

    app.publish(&Step { n: 1 }).queue(text).await.unwrap();
    app.publish(&Step { n: 2 }).queue(&string).await.unwrap();
    app.publish(&Step { n: 3 })
        .queue(queue.clone())
        .await
        .unwrap();
    app.publish_all(&[Step { n: 4 }])
        .queue(&queue)
        .await
        .unwrap();
    assert_eq!(app.stats(text).await.unwrap().ready, 4);
    assert_eq!(app.stats(string.clone()).await.unwrap().ready, 4);
    assert!(app.blocked_keys(&string, 1).await.unwrap().is_empty());
    app.dead_letters(text).unwrap();

    let report = app.drain_queue(text).await.unwrap();
    assert_eq!(report.counts.handled, 4);
    let report = app
        .consumer()
        .queue(string)
        .until_idle()
        .run()
        .await
        .unwrap();
    assert_eq!(report.reason, StopReason::Idle);
    app.stop_all("mail", None).await.unwrap();
    assert_eq!(app.purge(queue).await.unwrap(), 1);
}

fn refused<T>(result: Result<T, Error>) {
    let kind = result.err().map(|error| error.kind());
    assert_eq!(kind, Some(ErrorKind::InvalidQueueName));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_name_is_refused_where_the_call_is_awaited() {
    let app = TestApp::new(|app| app).unwrap();
    refused(app.publish(&Step { n: 1 }).queue(WRONG).await);
    refused(
        app.publish_all(&[Step { n: 1 }])
            .queue(WRONG)
            .await
            .map_err(Error::from),
    );
    refused(app.stats(WRONG).await);
    refused(app.purge(WRONG).await);
    refused(app.blocked_keys(WRONG, 1).await);
    refused(app.stop_all(WRONG, None).await);
    refused(app.fail(WRONG, &MessageId::Number(1), "why").await);
    refused(app.dead_letters(WRONG));
    refused(app.history("id").queue(WRONG).await);
    refused(app.drain_queue(WRONG).await);
    refused(app.consumer().queue(WRONG).run().await);
    refused(app.consumer().queue(WRONG).run_all().await);
    refused(app.subscriptions().unwrap().add(WRONG, "*").await);
    refused(app.subscriptions().unwrap().prune([WRONG]).await);
    assert!(app.published::<Step>().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_name_is_refused_where_the_application_is_built() {
    let refused = |build: fn(ezq_core::app::AppBuilder) -> ezq_core::app::AppBuilder| {
        refused(TestApp::new(build));
    };
    refused(|app| app.queue(WRONG));
    refused(|app| app.retention(WRONG, Retention::Delete));
    refused(|app| app.queue_codec(WRONG, "raw"));
    refused(|app| app.queue_engine(WRONG, "other"));
    refused(|app| app.register(Handler::on("all", |_: AnyEvent| async {}).queue(WRONG)));

    // A routing function is called only when something is published.
    let app = TestApp::new(|app| app.event_queue(|_| Some(WRONG))).unwrap();
    let error = app.publish(&Step { n: 1 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidQueueName);
}

#[tokio::test(start_paused = true)]
async fn the_queue_of_the_builder_is_where_events_go_and_come_from() {
    let app = App::builder()
        .without_discovered_handlers()
        .queue("jobs")
        .build(MemoryEngine::new())
        .unwrap();
    let published = app.publish(&Step { n: 1 }).await.unwrap();
    assert_eq!(published.queue.as_str(), "jobs");
    assert_eq!(app.stats("jobs").await.unwrap().ready, 1);
}
