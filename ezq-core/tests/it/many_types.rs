//! Events of several types in one call, and notices as a stream.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::event::Envelope;
use ezq_core::handler::{AnyEvent, Handler};
use ezq_core::testing::TestApp;
use futures_util::StreamExt as _;

use crate::fixtures::{Mail, Step};

#[tokio::test(start_paused = true)]
async fn events_of_several_types_are_stored_in_their_order_with_their_own_options() {
    let app = TestApp::new(|app| app).unwrap();
    let foreign = Envelope::builder("invoice.paid", "billing")
        .build()
        .unwrap();
    let hour = Duration::from_secs(3600);
    let published = app
        .publish_many()
        .add(&Step { n: 1 })
        .add(&Mail {})
        .add(foreign)
        .add(
            app.publish(&Step { n: 2 })
                .after(hour)
                .header("own", "x")
                .subject("two"),
        )
        .subject("all")
        .header("shared", "y")
        .await
        .unwrap();

    let types: Vec<&str> = published
        .iter()
        .map(|one| one.event_type.as_str())
        .collect();
    assert_eq!(types, ["step", "mail", "invoice.paid", "step"]);
    assert_eq!(
        published[1].queue.as_str(),
        "mail",
        "each has the queue of its type"
    );

    let (second, _) = app.assert_scheduled::<Step>();
    assert_eq!(second.n, 2, "only its own option delays an event");
    let stored = app.engine().all_published();
    let subjects: Vec<bool> = stored
        .iter()
        .map(|one| one.message.body.contains(r#""subject":"two""#))
        .collect();
    assert_eq!(subjects, [false, false, false, true], "its own option wins");
    let headers = &stored[3].message.headers;
    assert_eq!(
        (headers.text("own"), headers.text("shared")),
        (Some("x"), Some("y"))
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_refused_harms_no_other_and_none_are_no_error() {
    let app = TestApp::new(|app| app).unwrap();
    assert!(app.publish_many().await.unwrap().is_empty());

    let several = app.publish_many().add(&Step { n: 1 });
    let several = several.add(app.publish(&Mail {}).queue("no queue!"));
    let outcomes = several.add(&Step { n: 2 }).outcomes().await.unwrap();
    let kinds: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.as_ref().err().map(|error| error.kind()))
        .collect();
    assert_eq!(kinds, [None, Some(ErrorKind::InvalidQueueName), None]);
    assert_eq!(app.published::<Step>().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn notices_are_a_stream_that_ends_with_the_application() {
    let app = TestApp::new(|app| app.register(Handler::on("all", |_: AnyEvent| async {}))).unwrap();
    let mut notices = app.notices();
    assert!(notices.try_recv().is_none());
    // A receive that is given up loses nothing.
    let none = tokio::time::timeout(Duration::from_secs(1), notices.recv()).await;
    assert!(none.is_err());

    app.publish(&Step { n: 1 }).await.unwrap();
    assert!(notices.try_recv().is_some());
    assert!(notices.recv().await.is_some());
    assert!(notices.try_recv().is_none());

    app.publish(&Step { n: 2 }).await.unwrap();
    drop(app);
    let rest: Vec<_> = notices.collect().await;
    assert_eq!(rest.len(), 2);
}
