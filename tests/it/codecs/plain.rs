//! Bodies of other programs: raw JSON, and codecs that take nothing else.

use ezq::codec::{self, Body, Codec, CodecError, Origin, RawJson, WireFormat};
use ezq::message::headers::Headers;
use ezq::prelude::*;
use ezq::{Envelope, Handler};

use super::{Hidden, with};
use crate::kit::{Log, Numbered, Work, app, dead, drain, only_dead, queue, send_batch};

#[tokio::test]
async fn raw_bodies_of_other_programs_are_events_of_a_type() {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();
    let handler = Handler::on("reads", move |event: AnyEvent, context: Context| {
        seen.push((
            event.event_type().to_owned(),
            event.data().unwrap().to_owned(),
        ));
        assert!(!context.event_id().is_empty());
        async {}
    });

    let ezq = app(&queue)
        .codec(RawJson::of("numbers", "test.numbered"))
        .queue_codec(&queue, "numbers")
        .register(handler)
        .connect()
        .await
        .unwrap();
    send_batch(&ezq, &queue, &[r#"{"n": 1}"#.into(), "[2]".into()]).await;

    let send = "SELECT pgmq.send($1, $2::text::jsonb, $3::text::jsonb)";
    let headers =
        r#"{"ce-type": "test.other", "ce-id": "theirs", "ce-time": "2026-01-02T03:04:05Z"}"#;

    for (body, headers) in [("3", headers), ("4", r#"{"ce-type": 7}"#), ("5", "[]")] {
        let send = ezq::sqlx::query(send)
            .bind(queue.as_str())
            .bind(body)
            .bind(headers);
        send.execute(ezq.pool()).await.unwrap();
    }

    let history = ezq.history("theirs").await.unwrap();
    assert_eq!(history.copies[0].event_type.as_deref(), Some("test.other"));
    drain(&ezq).await;

    let found = |name: &str, data: &str| (format!("test.{name}"), data.to_owned());
    let numbered = |data| found("numbered", data);
    let wanted = [
        numbered("3"),
        numbered("4"),
        numbered("5"),
        numbered("[2]"),
        numbered("{\"n\": 1}"),
    ];

    let mut wanted = Vec::from(wanted);
    wanted[0] = found("other", "3");
    wanted.sort();
    assert_eq!(log.sorted(), wanted);

    // Without a type of its own, one that says nothing is a dead letter that says what to do.
    let queue = crate::kit::queue();
    let ezq = with(&queue, "raw").connect().await.unwrap();
    send_batch(&ezq, &queue, &["1".into()]).await;
    drain(&ezq).await;

    let reason = only_dead(&ezq, &queue).await.reason.unwrap();
    assert!(
        reason.error.contains("codec `raw`") && reason.error.contains("`ce-type`"),
        "{reason:?}"
    );
}

#[tokio::test]
async fn raw_json_keeps_every_attribute() {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();
    let handler = Handler::on("reads", move |event: AnyEvent| {
        seen.push(codec::encode(event.envelope(), WireFormat::CloudEvents).unwrap());
        async {}
    });

    let ezq = with(&queue, "raw")
        .register(handler)
        .connect()
        .await
        .unwrap();

    let envelope = Envelope::builder("test.full", "/a/b")
        .subject("s")
        .datacontenttype("application/json")
        .dataschema("urn:x")
        .extension("flag", ezq::event::AttributeValue::Boolean(true))
        .extension("eventversion", ezq::event::AttributeValue::Integer(3))
        .extension("word", ezq::event::AttributeValue::Text("ü".into()))
        .json("12345678901234567890.5")
        .unwrap()
        .build()
        .unwrap();

    let plain = codec::encode(&envelope, WireFormat::CloudEvents).unwrap();
    ezq.publish_envelope(envelope).await.unwrap();
    drain(&ezq).await;
    assert_eq!(log.take(), [plain]);
}

#[tokio::test]
async fn an_exclusive_codec_takes_nothing_else_and_another_reads_what_says_what_it_is() {
    for exclusive in [false, true] {
        let queue = queue();
        let (handler, work) = Work::quick();
        let ezq = app(&queue)
            .codec(Hidden {
                exclusive,
                ..Hidden::default()
            })
            .queue_codec(&queue, "hidden")
            .register(handler)
            .connect()
            .await
            .unwrap();

        let plain = app(&queue)
            .queue_codec(&queue, "raw")
            .connect()
            .await
            .unwrap();
        plain.publish(&Numbered { n: 1 }).await.unwrap();

        let cloud = r#"{"specversion": "1.0", "id": "1", "source": "x", "type": "test.numbered", "data": {"n": 2}}"#;
        send_batch(
            &ezq,
            &queue,
            &[cloud.into(), r#"{"_type": "test.numbered", "n": 3}"#.into()],
        )
        .await;
        ezq.publish(&Numbered { n: 4 }).await.unwrap();
        drain(&ezq).await;

        let (handled, died) = if exclusive {
            (vec![4], 3)
        } else {
            (vec![1, 2, 3, 4], 0)
        };
        assert_eq!(work.handled.sorted(), handled);
        assert_eq!(dead(&ezq, &queue).await.len(), died);
    }
}

/// Takes events with a mark only, in a form that says itself what it is.
struct Marked;

impl Codec for Marked {
    fn name(&self) -> &str {
        "marked"
    }

    fn encode(&self, event: &Envelope, headers: &mut Headers) -> Result<Body<'static>, CodecError> {
        WireFormat::CloudEvents.encode(event, headers)
    }

    fn decode(&self, body: Body<'_>, origin: Origin<'_>) -> Result<Envelope, CodecError> {
        let event = WireFormat::CloudEvents.decode(body, origin)?;
        if event.source() == "known" {
            Ok(event)
        } else {
            Err("no mark".into())
        }
    }

    fn is_exclusive(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn an_exclusive_codec_decides_about_plain_bodies_of_other_programs() {
    let queue = queue();
    let (handler, work) = Work::quick();
    let builder = app(&queue)
        .codec(Marked)
        .queue_codec(&queue, "marked")
        .register(handler);
    let ezq = builder.connect().await.unwrap();

    let body = |source: &str, n: i64| {
        format!(
            r#"{{"specversion": "1.0", "id": "{n}", "source": "{source}", "type": "test.numbered",
                 "data": {{"n": {n}}}}}"#
        )
    };
    send_batch(&ezq, &queue, &[body("known", 1), body("other", 2)]).await;

    drain(&ezq).await;
    assert_eq!(work.handled.take(), [1]);
    let reason = only_dead(&ezq, &queue).await.reason.unwrap();
    assert!(reason.error.contains("no mark"), "{reason:?}");
}
