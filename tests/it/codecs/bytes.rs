//! Bodies of bytes: a compact binary codec, what other programs store, and what keeps such bodies unread.

use ezq::admin::{CopyState, DeadLetterFilter};
use ezq::codec::{Body, Codec, CodecError, MAX_NESTING, Origin};
use ezq::engine::{DeadLetter, Outgoing};
use ezq::memory::MemoryEngine;
use ezq::message::headers::{BODY, Headers};
use ezq::message::{ReasonKind, Retention};
use ezq::prelude::*;
use ezq::{App, Envelope, ErrorKind, EzqBuilder, Handler, QueueName};
use serde::Deserialize;

use super::{Hidden, body, with};
use crate::kit::{Log, Numbered, Work, app, dead, drain, only_dead, queue, soon};

/// Id, source and type, each with its length in front, and then the data. Lengths are varints. Data that
/// is one number `n` is a varint too, and all other data is its JSON.
pub(super) struct Packed;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneNumber {
    n: i64,
}

impl Codec for Packed {
    fn name(&self) -> &str {
        "packed"
    }

    fn encode(&self, event: &Envelope, _: &mut Headers) -> Result<Body<'static>, CodecError> {
        let mut bytes = Vec::new();
        for text in [event.id(), event.source(), event.event_type()] {
            put(&mut bytes, u64::try_from(text.len())?);
            bytes.extend(text.bytes());
        }

        let data = event.data().unwrap_or("null");
        match serde_json::from_str::<OneNumber>(data) {
            Ok(OneNumber { n }) => {
                bytes.push(1);
                // Small numbers of both signs are small.
                put(&mut bytes, ((n << 1) ^ (n >> 63)).cast_unsigned());
            }
            Err(_) => {
                bytes.push(0);
                bytes.extend(data.bytes());
            }
        }
        Ok(Body::bytes(bytes))
    }

    fn decode(&self, body: Body<'_>, _: Origin<'_>) -> Result<Envelope, CodecError> {
        let mut bytes = body.as_bytes()?;
        let id = take_text(&mut bytes)?;
        let source = take_text(&mut bytes)?;
        let event_type = take_text(&mut bytes)?;

        let (form, mut data) = bytes.split_first().ok_or("cut off")?;
        let data = match form {
            1 => {
                let n = take(&mut data)?;
                let n = (n >> 1).cast_signed() ^ -(n & 1).cast_signed();
                format!(r#"{{"n":{n}}}"#)
            }
            _ => std::str::from_utf8(data)?.to_owned(),
        };
        let event = Envelope::builder(event_type, source).id(id).json(&data)?;
        Ok(event.build()?)
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn take(bytes: &mut &[u8]) -> Result<u64, CodecError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or("cut off")?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number is too long".into())
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Result<&'a str, CodecError> {
    let len = usize::try_from(take(bytes)?)?;
    let (text, rest) = bytes.split_at_checked(len).ok_or("cut off")?;
    *bytes = rest;
    Ok(std::str::from_utf8(text)?)
}

/// The bytes of the newest message, and the header beside them.
async fn stored(ezq: &Ezq, queue: &QueueName) -> (Vec<u8>, Option<String>) {
    let text = format!(
        "SELECT decode(message #>> '{{}}', 'base64'), headers ->> 'ezq-body'
         FROM pgmq.q_{queue} ORDER BY msg_id DESC LIMIT 1"
    );
    ezq::sqlx::query_as(ezq::sqlx::AssertSqlSafe(text))
        .fetch_one(ezq.pool())
        .await
        .unwrap()
}

/// Stores a message as another program does.
async fn send(ezq: &Ezq, queue: &QueueName, body: &str, headers: &str) {
    ezq.engine(queue).ensure_queue(queue).await.unwrap();
    ezq::sqlx::query("SELECT pgmq.send($1, $2::text::jsonb, $3::text::jsonb)")
        .bind(queue.as_str())
        .bind(body)
        .bind(headers)
        .execute(ezq.pool())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_binary_codec_is_compact_and_sql_reads_its_bytes() {
    let queue = queue();
    let log = Log::new();
    let numbers = log.clone();
    let handler = Handler::on("reads", move |event: Numbered| {
        numbers.push(event.n);
        async {}
    });

    let builder = with(&queue, "packed").register(handler);
    let ezq = builder.connect().await.unwrap();
    let sent = [0, -1, 300, i64::MIN, i64::MAX];
    for n in sent {
        let event = Envelope::builder("test.numbered", "it").id("1");
        let event = event.data(&Numbered { n }).unwrap().build().unwrap();
        ezq.publish_envelope(event.clone()).await.unwrap();

        let written = Packed.encode(&event, &mut Headers::new()).unwrap();
        let (bytes, form) = stored(&ezq, &queue).await;
        assert_eq!(bytes, written.as_bytes().unwrap());
        assert_eq!(form.as_deref(), Some("base64"));
        // Three lengths, 17 letters, and a number of at most 10 bytes with its form.
        assert!(bytes.len() <= 31, "{bytes:?}");
    }

    drain(&ezq).await;
    assert_eq!(log.take(), sent);
}

#[tokio::test]
async fn what_is_nested_too_deep_to_be_read_back_is_refused_under_bytes_too() {
    let queue = queue();
    let ezq = with(&queue, "packed").connect().await.unwrap();
    for (depth, is_refused) in [(MAX_NESTING, false), (MAX_NESTING + 1, true)] {
        let data = "[".repeat(depth) + &"]".repeat(depth);
        let event = Envelope::builder("test.deep", "it").json(&data).unwrap();
        let published = ezq.publish_envelope(event.build().unwrap()).await;
        let refused = published.map_err(|error| error.kind()).err();
        assert_eq!(refused, is_refused.then_some(ErrorKind::Encode), "{depth}");
    }
}

#[tokio::test]
async fn other_programs_store_bytes_and_what_is_malformed_is_a_dead_letter_unchanged() {
    let queue = queue();
    let (handler, work) = Work::quick();
    let builder = with(&queue, "packed").register(handler);
    let ezq = builder.connect().await.unwrap();

    // As SQL stores it. `encode` breaks long lines.
    let event = Envelope::builder("test.numbered", "it").id("1");
    let event = event.data(&Numbered { n: 7 }).unwrap().build().unwrap();
    let written = Packed.encode(&event, &mut Headers::new()).unwrap();
    let base64 = "SELECT to_jsonb(replace(encode($1, 'base64'), E'\\n', ''))::text";
    let good: String = ezq::sqlx::query_scalar(base64)
        .bind(written.as_bytes().unwrap())
        .fetch_one(ezq.pool())
        .await
        .unwrap();
    let marked = r#"{"ezq-body": "base64"}"#;
    let good = good.as_str();
    send(&ezq, &queue, good, marked).await;

    let malformed = [
        (r#""A""#, marked, "the body is not base64"),
        ("{}", marked, "the body is no JSON string"),
        (r#""AwE=""#, marked, "cut off"),
        (good, "{}", "the body is JSON text"),
        (good, r#"{"ezq-body": "zip"}"#, "the header `ezq-body`"),
        (good, r#"{"ezq-body": null}"#, "the header `ezq-body`"),
    ];
    for (body, headers, _) in malformed {
        send(&ezq, &queue, body, headers).await;
    }

    drain(&ezq).await;
    assert_eq!(work.handled.take(), [7]);

    let letters = dead(&ezq, &queue).await;
    assert_eq!(letters.len(), malformed.len());
    for (body, headers, why) in malformed {
        let headers: serde_json::Value = serde_json::from_str(headers).unwrap();
        let is_kept = |letter: &&DeadLetter| {
            letter.body == body && letter.headers.value(BODY) == headers.get(BODY)
        };
        let letter = letters.iter().find(is_kept).unwrap();
        let reason = letter.reason.as_ref().unwrap();
        assert_eq!(reason.kind, ReasonKind::Undecodable);
        let names_codec = "the codec `packed` cannot read the body: ";
        assert!(
            reason.error.starts_with(names_codec) && reason.error.contains(why),
            "{reason:?}"
        );
    }
}

#[tokio::test]
async fn a_codec_for_text_is_not_given_bytes() {
    for codec in ["cloudevents", "flat", "raw", "hidden"] {
        let queue = queue();
        let ezq = with(&queue, codec).connect().await.unwrap();
        let headers = r#"{"ezq-body": "base64", "ce-type": "test.numbered"}"#;
        send(&ezq, &queue, r#""e30=""#, headers).await;
        drain(&ezq).await;

        let reason = only_dead(&ezq, &queue).await.reason.unwrap();
        assert_eq!(reason.kind, ReasonKind::Undecodable);
        assert!(reason.error.contains("the body is bytes"), "{reason:?}");
    }
}

#[tokio::test]
async fn what_is_no_json_at_all_is_a_dead_letter_under_every_codec() {
    for codec in ["cloudevents", "raw", "hidden", "packed"] {
        let queue = queue();
        let app = App::builder()
            .without_discovered_handlers()
            .codec(Hidden::default())
            .codec(Packed)
            .queue_codec(&queue, codec)
            .build(MemoryEngine::new())
            .unwrap();

        // The memory engine stores any text.
        let mut headers = Headers::new();
        headers.insert("ce-type", "test.numbered");
        let message = Outgoing::new(queue.clone(), "\u{1} no JSON", headers);
        let engine = app.engine(&queue);
        engine.ensure_queue(&queue).await.unwrap();
        engine.publish(vec![message]).await.unwrap();
        let consumer = app.consumer().queue(queue.clone()).until_idle();
        soon(consumer.run()).await.unwrap();

        let letters = app.dead_letters(&queue).unwrap();
        let letters = letters.list(&DeadLetterFilter::all(), 10).await.unwrap();
        let reason = letters[0].reason.as_ref().unwrap();
        assert_eq!(reason.kind, ReasonKind::Undecodable, "{codec}: {reason:?}");
        assert_eq!(letters[0].body, "\u{1} no JSON");
    }
}

#[tokio::test]
async fn history_redrives_and_replays_keep_bytes_as_they_are_where_the_codec_is_missing() {
    let queue = queue();
    let log = Log::new();
    let numbers = log.clone();
    let handler = Handler::on("fails_once", move |event: Numbered, context: Context| {
        let was_redriven = context.headers().value("ezq-redriven").is_some();
        let was_replayed = context.headers().value("ezq-replay").is_some();
        numbers.push(event.n);
        async move {
            if was_redriven || was_replayed {
                Ok(())
            } else {
                Err(HandlerError::fatal("no"))
            }
        }
    });

    let keep = |builder: EzqBuilder| builder.retention(&queue, Retention::ARCHIVE);
    let worker = keep(with(&queue, "packed")).register(handler);
    let worker = worker.connect().await.unwrap();
    let operator = keep(app(&queue)).connect().await.unwrap();

    let published = worker.publish(&Numbered { n: -300 }).await.unwrap();
    let written = body(&worker, &queue).await;
    drain(&worker).await;

    let letter = only_dead(&operator, &queue).await;
    assert_eq!(letter.body, written);
    assert_eq!(letter.headers.text(BODY), Some("base64"));
    let history = operator.history(&published.event_id).await.unwrap();
    assert!(matches!(history.copies[0].state, CopyState::Dead { .. }));

    let letters = operator.dead_letters(&queue).unwrap();
    let ours = DeadLetterFilter::all().event_type("test.numbered");
    assert_eq!(letters.redrive(ours).await.unwrap().len(), 1);
    assert_eq!(body(&operator, &queue).await, written);
    drain(&worker).await;

    let replay = operator
        .replay(format!("bytes of {queue}"), &queue)
        .event_type("test.numbered");
    assert_eq!(replay.await.unwrap().handed_over, 1);
    assert_eq!(body(&operator, &queue).await, written);
    drain(&worker).await;
    assert_eq!(log.take(), [-300; 3]);
}
