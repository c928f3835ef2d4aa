//! Events that a handler returns: published once, with their cause, or not at all.

use std::collections::BTreeMap;

use ezq::Handler;
use ezq::admin::DeadLetterFilter;
use ezq::message::ReasonKind;
use ezq::prelude::*;

use super::{Named, failing, named};
use crate::kit::{Log, Numbered, app, dead, drain, numbered, queue};

type Seen = (String, String, Option<String>, Option<String>);

/// Writes down every event: type, data, causation and correlation.
fn audit() -> (Handler, Log<Seen>) {
    let log = Log::new();
    let seen = log.clone();
    let handler = Handler::on("audit", move |event: AnyEvent, context: Context| {
        let header = |name: &str| context.headers().text(name).map(str::to_owned);
        let data: serde_json::Value = serde_json::from_str(event.data().unwrap()).unwrap();
        seen.push((
            event.event_type().to_owned(),
            data.to_string(),
            header("causation-id"),
            header("correlation-id"),
        ));
        async {}
    });
    (handler, log)
}

#[tokio::test]
async fn returned_events_are_published_with_their_cause() {
    let queue = queue();
    let (audit, log) = audit();

    let returns = Handler::on("returns", |event: Numbered| async move {
        match event.n {
            1 => Ok((
                named("one"),
                (
                    vec![Numbered { n: 2 }, Numbered { n: 3 }],
                    None::<Named>,
                    Some(named("some")),
                ),
            )),
            _ => Err(HandlerError::discard("enough")),
        }
    });

    let ezq = app(&queue)
        .register(audit)
        .register(returns)
        .connect()
        .await
        .unwrap();

    let first = ezq
        .publish(&Numbered { n: 1 })
        .correlation_id("flow")
        .await
        .unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 5);

    let cause = || Some(first.event_id.clone());
    let flow = || Some("flow".to_owned());
    let line = |name: &str, data: &str, cause| (name.to_owned(), data.to_owned(), cause, flow());
    let expected = [
        line("test.named", r#"{"name":"one"}"#, cause()),
        line("test.named", r#"{"name":"some"}"#, cause()),
        line("test.numbered", r#"{"n":1}"#, None),
        line("test.numbered", r#"{"n":2}"#, cause()),
        line("test.numbered", r#"{"n":3}"#, cause()),
    ];
    assert_eq!(log.sorted(), expected);
}

#[tokio::test]
async fn causes_are_chained_and_the_first_event_names_the_flow() {
    let queue = queue();
    let (audit, log) = audit();
    let counts = Handler::on("counts", |event: Numbered| async move {
        (event.n < 3).then_some(Numbered { n: event.n + 1 })
    });

    let ids = Log::new();
    let seen = ids.clone();
    let notes = Handler::on("notes", move |event: Numbered, context: Context| {
        seen.push((event.n, context.event_id().to_owned()));
        async {}
    });
    let builder = app(&queue).register(audit).register(counts).register(notes);
    let ezq = builder.connect().await.unwrap();
    let first = ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;

    let ids: BTreeMap<i64, String> = ids.take().into_iter().collect();
    let events = log.sorted();
    assert_eq!(events.len(), 3);
    assert_eq!((&events[0].2, &events[0].3), (&None, &None));
    assert_eq!(events[1].2.as_ref(), Some(&first.event_id));
    assert_eq!(events[2].2.as_ref(), Some(&ids[&2]));
    assert_eq!(events[2].3.as_ref(), Some(&first.event_id));
}

#[tokio::test]
async fn a_returned_event_is_published_once_although_another_handler_retries() {
    let queue = queue();
    let (bad, bad_log) = failing("bad", 3);
    let names = Log::new();
    let seen = names.clone();

    let ezq = app(&queue)
        .register(Handler::on("returns", |_: Numbered| async {
            named("once")
        }))
        .register(bad)
        .register(Handler::on("named", move |event: Named| {
            seen.push(event.name);
            async {}
        }))
        .connect()
        .await
        .unwrap();

    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;
    assert_eq!(bad_log.take(), [1, 2, 3, 4]);
    assert_eq!(names.take(), ["once"]);
}

#[tokio::test]
async fn a_returned_event_that_cannot_be_stored_costs_its_handler_the_event() {
    let queue = queue();
    let (good, good_log) = failing("good", 0);
    let returns = Handler::on("returns", |event: Numbered| async move {
        match event.n {
            1 => named("nul \0"),
            2 => named(&"x".repeat(2_000_000)),
            _ => named("fine"),
        }
    });

    let ignores = Handler::on("ignores", |_: Named| async {});
    let ezq = app(&queue)
        .register(good)
        .register(returns)
        .register(ignores);
    let ezq = ezq.connect().await.unwrap();
    ezq.publish_all(&numbered(1..=4)).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!((counts.handled, counts.dead_lettered), (4, 2), "{counts}");
    assert_eq!(good_log.take(), [1, 1, 1, 1]);

    for letter in dead(&ezq, &queue).await {
        let reason = letter.reason.unwrap();
        assert_eq!(reason.kind, ReasonKind::Fatal);
        assert_eq!(reason.handler.unwrap().as_str(), "returns");
    }

    // A redrive runs that handler again, and not the one that had done its part.
    let letters = ezq.dead_letters(&queue).unwrap();
    assert_eq!(
        letters
            .redrive(DeadLetterFilter::all())
            .await
            .unwrap()
            .len(),
        2
    );
    assert_eq!(drain(&ezq).await.counts.dead_lettered, 2);
    assert_eq!(good_log.take(), Vec::<u32>::new());
}
