//! Codecs: whatever writes the body, an event is handled, retried, kept and told of as any other.

mod bytes;
mod every;
mod failures;
mod plain;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ezq::codec::{self, Body, Codec, CodecError, Origin, RawJson, WireFormat};
use ezq::message::Retention;
use ezq::message::headers::Headers;
use ezq::prelude::*;
use ezq::{Envelope, ErrorKind, EzqBuilder, Handler, QueueName};
use serde::{Deserialize, Serialize};

use self::bytes::Packed;
use self::every::Doubled;
use crate::kit::{Log, Numbered, Work, app, dead, drain, queue};

/// A body that says nothing: each byte as a number, turned around. Strict if told so.
#[derive(Clone, Default)]
struct Hidden {
    exclusive: bool,
    broken: Arc<AtomicBool>,
}

impl Codec for Hidden {
    fn name(&self) -> &str {
        "hidden"
    }

    fn encode(&self, event: &Envelope, headers: &mut Headers) -> Result<Body<'static>, CodecError> {
        let text = codec::encode(event, WireFormat::CloudEvents)?;
        headers.insert("hidden-by", "it");
        let bytes: Vec<u8> = text.bytes().rev().collect();
        Ok(Body::json(serde_json::to_string(&bytes)?))
    }

    fn decode(&self, body: Body<'_>, origin: Origin<'_>) -> Result<Envelope, CodecError> {
        assert!(!self.broken.load(Ordering::Relaxed), "the codec is broken");
        let mut bytes: Vec<u8> = serde_json::from_str(body.as_json()?)?;
        bytes.reverse();
        Ok(codec::decode(std::str::from_utf8(&bytes)?, origin)?)
    }

    fn is_exclusive(&self) -> bool {
        self.exclusive
    }
}

/// An application whose queue has a codec.
fn with(queue: &QueueName, codec: &str) -> EzqBuilder {
    app(queue)
        .codec(Hidden::default())
        .codec(Packed)
        .queue_codec(queue, codec)
}

async fn body(ezq: &Ezq, queue: &QueueName) -> String {
    let text = format!("select message::text from pgmq.q_{queue} order by msg_id desc limit 1");
    ezq::sqlx::query_scalar(ezq::sqlx::AssertSqlSafe(text))
        .fetch_one(ezq.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn each_form_is_what_it_says() {
    for (codec, start) in [
        ("cloudevents", r#"{"id": "#),
        ("flat", r#"{"n": 7, "_type": "test.numbered"}"#),
        ("raw", r#"{"n": 7}"#),
        ("hidden", "[125, "),
        // The length of the id, and its first byte.
        ("packed", r#""JD"#),
    ] {
        let queue = queue();
        let ezq = with(&queue, codec).connect().await.unwrap();
        ezq.publish(&Numbered { n: 7 }).await.unwrap();
        let stored = body(&ezq, &queue).await;
        assert!(stored.starts_with(start), "{codec}: {stored}");
    }
}

#[derive(Event, Serialize, Deserialize, Debug)]
#[event(type = "test.secret", codec = "hidden")]
struct Secret {
    word: String,
}

#[tokio::test]
async fn an_event_has_its_own_codec_over_its_queue_s_and_the_application_s_word_over_that() {
    let queue = queue();
    let log = Log::new();
    let words = log.clone();
    let handler = Handler::on("words", move |event: Secret| {
        words.push(event.word);
        async {}
    });

    let build = || with(&queue, "flat").register(handler.clone());
    let ezq = build().connect().await.unwrap();
    let secret = |word: &str| Secret { word: word.into() };
    ezq.publish(&secret("one")).await.unwrap();
    assert!(body(&ezq, &queue).await.starts_with('['));

    let over = build()
        .event_codec("test.secret", "raw")
        .connect()
        .await
        .unwrap();
    over.publish(&secret("two")).await.unwrap();
    assert_eq!(body(&ezq, &queue).await, r#"{"word": "two"}"#);

    // An envelope known at run time follows the application's word, and else the queue's.
    let envelope = Envelope::builder("test.secret", "it")
        .data(&secret("three"))
        .unwrap();
    ezq.publish_envelope(envelope.build().unwrap())
        .await
        .unwrap();
    assert_eq!(
        body(&ezq, &queue).await,
        r#"{"word": "three", "_type": "test.secret"}"#
    );

    // Whatever the codec, all are read by whoever has it.
    drain(&ezq).await;
    assert_eq!(log.take(), ["one", "two", "three"]);
}

#[tokio::test]
async fn what_chooses_no_codec_that_there_is_fails_when_it_is_built_or_published() {
    let queue = queue();
    let secret = Handler::on("secret", |_: Secret| async {});

    for (builder, named) in [
        (app(&queue).queue_codec(&queue, "odd"), "`odd`"),
        (app(&queue).event_codec("test.numbered", "odd"), "`odd`"),
        (app(&queue).register(secret), "`hidden`"),
        (
            app(&queue)
                .codec(Hidden::default())
                .codec(Hidden::default()),
            "`hidden`",
        ),
        (app(&queue).codec(RawJson::of("raw", "x")), "`raw`"),
        (app(&queue).codec(RawJson::of("flat", "x")), "`flat`"),
        (app(&queue).codec(RawJson::of("", "x")), "``"),
        (app(&queue).codec(RawJson::of("a b", "x")), "`a b`"),
    ] {
        let error = builder.connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(named), "{error}");
    }

    let error = app(&queue)
        .queue_codec("Orders!", "raw")
        .connect()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidQueueName);

    let ezq = app(&queue).connect().await.unwrap();
    let error = ezq
        .publish(&Secret { word: "no".into() })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("`hidden`"), "{error}");
}

#[tokio::test]
async fn what_is_broadcast_is_written_by_its_type_s_codec_and_not_by_a_queue_s() {
    let queue = queue();
    let strict = Hidden {
        exclusive: true,
        ..Hidden::default()
    };

    let build = || {
        app(&queue)
            .codec(strict.clone())
            .queue_codec(&queue, "hidden")
    };
    let ezq = build().connect().await.unwrap();
    ezq.engine(&queue).ensure_queue(&queue).await.unwrap();

    // Of the test's own, since the database is shared.
    let event_type = format!("test.{queue}");
    ezq.subscriptions()
        .unwrap()
        .add(&queue, event_type.as_str())
        .await
        .unwrap();

    let event = || {
        Envelope::builder(&event_type, "it")
            .data(&Doubled { n: 7 })
            .unwrap()
    };
    ezq.broadcast_envelope(event().build().unwrap())
        .await
        .unwrap();
    assert!(body(&ezq, &queue).await.starts_with(r#"{"id": "#));

    drain(&ezq).await;
    assert_eq!(dead(&ezq, &queue).await.len(), 1);

    let typed = build()
        .event_codec(&event_type, "hidden")
        .connect()
        .await
        .unwrap();
    typed
        .broadcast_envelope(event().build().unwrap())
        .await
        .unwrap();
    assert!(body(&ezq, &queue).await.starts_with("[125, "));

    ezq.subscriptions()
        .unwrap()
        .remove(&queue, event_type.as_str())
        .await
        .unwrap();
}

#[tokio::test]
async fn an_archive_is_searched_by_its_index_for_what_a_codec_wrote() {
    let queue = queue();
    let build = with(&queue, "hidden").retention(&queue, Retention::ARCHIVE);
    let ezq = build.register(Work::quick().0).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;

    let text = format!(
        "INSERT INTO pgmq.a_{queue} (msg_id, vt, message, headers)
         SELECT n, now(), '[1]', jsonb_build_object('ezq-codec', 'hidden', 'ce-id', 'c-' || n)
         FROM generate_series(1001, 21000) n; ANALYZE pgmq.a_{queue}"
    );
    ezq::sqlx::raw_sql(ezq::sqlx::AssertSqlSafe(text))
        .execute(ezq.pool())
        .await
        .unwrap();
    assert_eq!(ezq.history("c-1077").await.unwrap().copies.len(), 1);

    let scans = format!(
        "SELECT coalesce(sum(idx_scan), 0)::bigint > 0 FROM pg_stat_user_indexes
         WHERE indexrelname = 'a_{queue}_ce_id_idx'"
    );
    crate::kit::until(|| async {
        let scans = ezq::sqlx::AssertSqlSafe(scans.clone());
        ezq::sqlx::query_scalar(scans)
            .fetch_one(ezq.pool())
            .await
            .unwrap()
    })
    .await;
}
