//! Codecs: whatever writes the body, an event is handled, retried, kept and told of as any other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ezq::admin::{CopyState, DeadLetterFilter};
use ezq::codec::{Codec, CodecError, Origin, RawJson, WireFormat};
use ezq::config::UnknownTypes;
use ezq::consumer::StopReason;
use ezq::handler::{Backoff, RetryPolicy};
use ezq::message::headers::Headers;
use ezq::message::{ReasonKind, Retention};
use ezq::prelude::*;
use ezq::{Envelope, ErrorKind, EzqBuilder, Handler, QueueName};
use serde::{Deserialize, Serialize};

use crate::kit::{
    Log, Numbered, Work, app, dead, drain, held, numbered, only_dead, queue, send_batch, soon,
};

/// Every shipped codec, and one of one's own that hides what it writes.
const EVERY: [&str; 4] = ["cloudevents", "flat", "raw", "hidden"];

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

    fn encode(&self, event: &Envelope, headers: &mut Headers) -> Result<String, CodecError> {
        let text = WireFormat::CloudEvents.encode(event, headers)?;
        headers.insert("hidden-by", "it");
        Ok(serde_json::to_string(
            &text.bytes().rev().collect::<Vec<u8>>(),
        )?)
    }

    fn decode(&self, body: &str, origin: Origin<'_>) -> Result<Envelope, CodecError> {
        assert!(!self.broken.load(Ordering::Relaxed), "the codec is broken");
        let mut bytes: Vec<u8> = serde_json::from_str(body)?;
        bytes.reverse();
        WireFormat::CloudEvents.decode(std::str::from_utf8(&bytes)?, origin)
    }

    fn is_exclusive(&self) -> bool {
        self.exclusive
    }
}

/// An application whose queue has a codec.
fn with(queue: &QueueName, codec: &str) -> EzqBuilder {
    app(queue)
        .codec(Hidden::default())
        .queue_codec(queue, codec)
}

async fn body(ezq: &Ezq, queue: &QueueName) -> String {
    let text = format!("select message::text from pgmq.q_{queue} order by msg_id desc limit 1");
    ezq::sqlx::query_scalar(ezq::sqlx::AssertSqlSafe(text))
        .fetch_one(ezq.pool())
        .await
        .unwrap()
}

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(type = "test.doubled")]
struct Doubled {
    n: i64,
}

#[tokio::test]
async fn each_form_is_what_it_says() {
    for (codec, start) in [
        ("cloudevents", r#"{"id": "#),
        ("flat", r#"{"n": 7, "_type": "test.numbered"}"#),
        ("raw", r#"{"n": 7}"#),
        ("hidden", "[125, "),
    ] {
        let queue = queue();
        let ezq = with(&queue, codec).connect().await.unwrap();
        ezq.publish(&Numbered { n: 7 }).await.unwrap();
        let stored = body(&ezq, &queue).await;
        assert!(stored.starts_with(start), "{codec}: {stored}");
    }
}

#[tokio::test]
async fn under_every_codec_events_are_handled_returned_and_committed_with_a_transaction() {
    for codec in EVERY {
        let queue = queue();
        let log = Log::new();
        let seen = log.clone();
        let told = log.clone();
        let table = format!("public.codecs_{queue}");
        let insert = format!("insert into {table} values ($1)");

        let ezq = with(&queue, codec)
            .register(Handler::on("double", move |event: Numbered, mut tx: Tx| {
                let insert = insert.clone();
                async move {
                    let insert = ezq::sqlx::query(ezq::sqlx::AssertSqlSafe(insert));
                    insert.bind(event.n).execute(&mut *tx).await?;
                    Ok::<_, ezq::sqlx::Error>(Doubled { n: 2 * event.n })
                }
            }))
            .register(Handler::on(
                "fails_once",
                move |event: Numbered, context: Context| {
                    seen.push(format!("{} at {}", event.n, context.attempt()));
                    async move {
                        if context.attempt() > 1 {
                            Ok(())
                        } else {
                            Err("not yet")
                        }
                    }
                },
            ))
            .register(Handler::on("told", move |event: Doubled| {
                told.push(format!("doubled {}", event.n));
                async {}
            }))
            .connect()
            .await
            .unwrap();

        let create = format!("create table {table} (n bigint)");
        ezq::sqlx::raw_sql(ezq::sqlx::AssertSqlSafe(create))
            .execute(ezq.pool())
            .await
            .unwrap();

        let mut tx = ezq.pool().begin().await.unwrap();
        ezq.publish(&Numbered { n: 7 })
            .within(&mut tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        drain(&ezq).await;
        assert_eq!(log.sorted(), ["7 at 1", "7 at 2", "doubled 14"], "{codec}");

        let count = format!("select count(*) from {table} where n = 7");
        let count: i64 = ezq::sqlx::query_scalar(ezq::sqlx::AssertSqlSafe(count))
            .fetch_one(ezq.pool())
            .await
            .unwrap();
        assert_eq!((count, held(&ezq, &queue).await), (1, [0; 4]), "{codec}");
    }
}

#[tokio::test]
async fn under_every_codec_batches_are_claimed_leased_or_in_their_transaction() {
    for codec in EVERY {
        let queue = queue();
        let log = Log::new();
        let numbers = log.clone();
        let sum = Handler::on_batch("sum", move |batch: Batch<Numbered>, _: Tx| {
            batch.events().for_each(|event| numbers.push(event.n));
            async {}
        });

        let ezq = with(&queue, codec)
            .register(sum.batch_size(10))
            .connect()
            .await
            .unwrap();
        ezq.publish_all(&numbered(0..60)).await.unwrap();

        drain(&ezq).await;
        assert_eq!(log.sorted(), Vec::from_iter(0..60), "{codec}");
        assert_eq!(held(&ezq, &queue).await, [0; 4], "{codec}");
    }
}

#[tokio::test]
async fn under_every_codec_keys_order_duplicates_are_told_and_headers_are_kept() {
    for codec in EVERY {
        let queue = queue();
        let log = Log::new();
        let seen = log.clone();
        let from = queue.clone();

        let first_fails = Handler::on("ordered", move |event: Numbered, context: Context| {
            let headers = context.headers();
            assert_eq!(headers.text("shop"), Some("berlin"));
            assert_eq!(headers.text("correlation-id"), Some("flow"));
            assert_eq!(
                (headers.key().as_deref(), context.queue()),
                (Some("k"), &from)
            );

            let fails = event.n == 1 && context.attempt() == 1;
            if !fails {
                seen.push(event.n);
            }

            async move { if fails { Err("not yet") } else { Ok(()) } }
        });

        let ezq = with(&queue, codec)
            .register(first_fails)
            .connect()
            .await
            .unwrap();

        let publish = |n| {
            let publish = ezq.publish(&Numbered { n }).key("k").correlation_id("flow");
            publish
                .header("shop", "berlin")
                .dedupe_key(format!("n-{n}"))
        };
        let first = publish(1).await.unwrap();
        assert!(publish(1).await.unwrap().is_duplicate, "{codec}");

        for n in 2..5 {
            assert!(!publish(n).await.unwrap().is_duplicate, "{codec}");
        }

        assert_eq!(held(&ezq, &queue).await, [4, 0, 0, 0], "{codec}: {first:?}");
        drain(&ezq).await;
        assert_eq!(log.take(), [1, 2, 3, 4], "{codec}");
    }
}

#[tokio::test]
async fn under_every_codec_history_tells_of_an_event_in_the_queue_the_archive_and_the_dead_letters()
{
    for codec in EVERY {
        let queue_dead = queue();
        let queue = queue();
        let build = |queue: &QueueName, handler| {
            with(queue, codec)
                .register(handler)
                .retention(queue, Retention::ARCHIVE)
                .connect()
        };

        let ezq = build(&queue, Work::quick().0).await.unwrap();
        let published = ezq.publish(&Numbered { n: 1 }).await.unwrap();
        // The id of an event in the flat form is its place.
        let id = match codec {
            "flat" => format!("{queue}:{}", published.id),
            _ => published.event_id.clone(),
        };

        let copy = async |ezq: &Ezq, id: &str| {
            let mut history = ezq.history(id).await.unwrap();
            assert_eq!(history.copies.len(), 1, "{codec}: {history}");
            let copy = history.copies.remove(0);
            assert_eq!(copy.event_type.as_deref(), Some("test.numbered"), "{codec}");
            copy.state
        };
        assert!(
            matches!(copy(&ezq, &id).await, CopyState::Waiting { .. }),
            "{codec}"
        );

        drain(&ezq).await;
        assert!(
            matches!(copy(&ezq, &id).await, CopyState::Archived { .. }),
            "{codec}"
        );

        let fatal = Handler::on("fatal", |_: Numbered, context: Context| async move {
            match context.headers().value("ezq-redriven") {
                None => Err(HandlerError::fatal("no")),
                Some(_) => Ok(()),
            }
        });

        let ezq = build(&queue_dead, fatal).await.unwrap();
        let published = ezq.publish(&Numbered { n: 2 }).await.unwrap();
        let id = match codec {
            "flat" => format!("{queue_dead}:{}", published.id),
            _ => published.event_id.clone(),
        };

        drain(&ezq).await;
        assert!(
            matches!(copy(&ezq, &id).await, CopyState::Dead { .. }),
            "{codec}"
        );

        // Found by its type, and read again after it was redriven.
        let letters = ezq.dead_letters(&queue_dead).unwrap();
        let other = DeadLetterFilter::all().event_type("test.doubled");
        assert_eq!(letters.list(&other, 10).await.unwrap().len(), 0, "{codec}");
        let ours = DeadLetterFilter::all().event_type("test.numbered");
        assert_eq!(letters.redrive(ours).await.unwrap().len(), 1, "{codec}");

        drain(&ezq).await;
        assert!(
            matches!(copy(&ezq, &id).await, CopyState::Archived { .. }),
            "{codec}"
        );
    }
}

#[tokio::test]
async fn control_events_stop_a_consumer_under_every_codec() {
    for (codec, exclusive) in EVERY
        .map(|codec| (codec, false))
        .into_iter()
        .chain([("hidden", true)])
    {
        let queue = queue();
        let (handler, work) = Work::quick();
        let ezq = app(&queue)
            .codec(Hidden {
                exclusive,
                ..Hidden::default()
            })
            .queue_codec(&queue, codec)
            .retention(&queue, Retention::ARCHIVE)
            .register(handler)
            .connect()
            .await
            .unwrap();

        ezq.publish(&Numbered { n: 1 }).await.unwrap();
        let end = ezq.publish(&End::default()).await.unwrap();
        ezq.publish(&Interrupt::default()).await.unwrap();

        for reason in [StopReason::End, StopReason::Interrupt] {
            assert_eq!(
                soon(ezq.consumer().run()).await.unwrap().reason,
                reason,
                "{codec}"
            );
        }

        assert_eq!(work.handled.take(), [1], "{codec}");
        // As everywhere, a control event is not archived.
        assert!(
            ezq.history(&end.event_id).await.unwrap().is_empty(),
            "{codec}"
        );

        send_batch(&ezq, &queue, &[r#"{"_type": "EZQEndEvent"}"#.into()]).await;
        assert_eq!(
            soon(ezq.consumer().run()).await.unwrap().reason,
            StopReason::End,
            "{codec}"
        );

        ezq.stop_all(&queue, None).await.unwrap();
        assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0], "{codec}");
    }
}

#[tokio::test]
async fn what_a_codec_cannot_read_is_a_dead_letter_that_names_it_and_holds_up_no_other() {
    let queue = queue();
    let (handler, work) = Work::quick();
    let ezq = with(&queue, "hidden")
        .register(handler)
        .connect()
        .await
        .unwrap();

    send_batch(&ezq, &queue, &[r#"{"odd": 1}"#.into(), "[300]".into()]).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;
    assert_eq!(work.handled.take(), [1]);

    let letters = dead(&ezq, &queue).await;
    assert_eq!(letters.len(), 2);
    for letter in letters {
        let reason = letter.reason.unwrap();
        assert_eq!(reason.kind, ReasonKind::Undecodable);
        assert!(
            reason
                .error
                .starts_with("the codec `hidden` cannot read the body: "),
            "{reason:?}"
        );
    }
}

#[tokio::test]
async fn a_codec_that_panics_kills_no_consumer() {
    let queue = queue();
    let codec = Hidden::default();
    let (handler, work) = Work::quick();
    let build = app(&queue)
        .codec(codec.clone())
        .queue_codec(&queue, "hidden")
        .register(handler);

    let ezq = build.connect().await.unwrap();
    codec.broken.store(true, Ordering::Relaxed);
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;
    let reason = only_dead(&ezq, &queue).await.reason.unwrap();
    assert!(reason.error.contains("the codec is broken"), "{reason:?}");

    codec.broken.store(false, Ordering::Relaxed);
    ezq.dead_letters(&queue)
        .unwrap()
        .redrive(DeadLetterFilter::all())
        .await
        .unwrap();
    drain(&ezq).await;
    assert_eq!(work.handled.take(), [1]);
}

#[tokio::test]
async fn a_codec_that_is_not_known_here_is_tried_again_and_then_a_dead_letter() {
    let queue = queue();
    let newer = with(&queue, "hidden")
        .register(Work::quick().0)
        .connect()
        .await
        .unwrap();
    newer.publish(&Numbered { n: 1 }).await.unwrap();

    let older = |attempts| {
        let policy = RetryPolicy::new(attempts, Backoff::constant(Duration::ZERO));
        let unknown_types = UnknownTypes::Retry(policy);
        app(&queue)
            .configure(move |config| config.unknown_types = unknown_types)
            .connect()
    };

    let handle = older(1_000_000).await.unwrap().consumer().spawn();
    crate::kit::until(|| async { handle.counts().retried > 3 }).await;
    handle.stop();
    soon(handle.wait()).await.unwrap();
    assert_eq!(held(&newer, &queue).await[3], 0);

    drain(&older(2).await.unwrap()).await;
    let reason = only_dead(&newer, &queue).await.reason.unwrap();
    assert_eq!(reason.kind, ReasonKind::Undecodable);
    assert!(reason.error.contains("`hidden`"), "{reason:?}");

    newer
        .dead_letters(&queue)
        .unwrap()
        .redrive(DeadLetterFilter::all())
        .await
        .unwrap();
    assert_eq!(drain(&newer).await.counts.handled, 1);
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

/// Writes what cannot be stored.
struct Bad(&'static str);

impl Codec for Bad {
    fn name(&self) -> &str {
        self.0
    }

    fn encode(&self, _: &Envelope, _: &mut Headers) -> Result<String, CodecError> {
        match self.0 {
            "panics" => panic!("no"),
            "fails" => Err("no".into()),
            "no_json" => Ok("{".into()),
            _ => Ok("[".repeat(200) + &"]".repeat(200)),
        }
    }

    fn decode(&self, _: &str, _: Origin<'_>) -> Result<Envelope, CodecError> {
        Err("no".into())
    }
}

#[tokio::test]
async fn what_a_codec_cannot_write_is_refused_at_publish_and_fails_the_handler_that_returns_it() {
    for name in ["panics", "fails", "no_json", "deep"] {
        let queue = queue();
        let double = Handler::on(
            "double",
            |event: Numbered| async move { Doubled { n: event.n } },
        );
        let builder = app(&queue)
            .codec(Bad(name))
            .event_codec("test.doubled", name);

        let ezq = builder.register(double).connect().await.unwrap();
        let error = ezq.publish(&Doubled { n: 1 }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Encode);
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");

        ezq.publish(&Numbered { n: 1 }).await.unwrap();
        drain(&ezq).await;
        assert_eq!(
            only_dead(&ezq, &queue).await.reason.unwrap().kind,
            ReasonKind::Fatal
        );
    }
}

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
        seen.push(
            WireFormat::CloudEvents
                .encode(event.envelope(), &mut Headers::new())
                .unwrap(),
        );
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

    let plain = WireFormat::CloudEvents
        .encode(&envelope, &mut Headers::new())
        .unwrap();
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

    fn encode(&self, event: &Envelope, headers: &mut Headers) -> Result<String, CodecError> {
        WireFormat::CloudEvents.encode(event, headers)
    }

    fn decode(&self, body: &str, origin: Origin<'_>) -> Result<Envelope, CodecError> {
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
