//! Bodies of every shape and size come in as they went out, and bad ones are dead letters.

use std::collections::BTreeMap;

use ezq::codec::MAX_NESTING;
use ezq::message::ReasonKind;
use ezq::prelude::*;
use ezq::{Envelope, ErrorKind, Handler, sqlx};
use serde::{Deserialize, Serialize};

use super::{Raw, connect, raw};
use crate::kit::{Log, Numbered, Work, app, dead, drain, only_dead, queue, send_batch};

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[event(type = "test.rich")]
struct Rich {
    shape: Shape,
    line: Vec<Shape>,
    nested: BTreeMap<String, Inner>,
    maybe: Option<i64>,
    absent: Option<String>,
    #[serde(default)]
    defaulted: u8,
    big: u64,
    small: i64,
    ratio: f64,
    text: String,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Dot,
    Circle(f64),
    Line { from: (i32, i32), to: (i32, i32) },
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Inner {
    tags: Vec<String>,
    deeper: Option<Box<Inner>>,
}

fn rich() -> Rich {
    let deeper = Inner {
        tags: vec![],
        deeper: None,
    };
    let inner = Inner {
        tags: vec!["a".into(), "\"b\\\u{1f600}".into()],
        deeper: Some(deeper.into()),
    };

    Rich {
        shape: Shape::Line {
            from: (0, -1),
            to: (i32::MAX, i32::MIN),
        },
        line: vec![Shape::Dot, Shape::Circle(0.1)],
        nested: BTreeMap::from([
            ("key with spaces".into(), inner),
            (
                "".into(),
                Inner {
                    tags: vec![],
                    deeper: None,
                },
            ),
        ]),
        maybe: Some(9_007_199_254_740_993),
        absent: None,
        defaulted: 3,
        big: u64::MAX,
        small: i64::MIN,
        ratio: 1.0e-300,
        text: "tab\t newline\n quote\" back\\slash / ä 漢 \u{7f} \u{2028}".into(),
    }
}

#[tokio::test]
async fn rich_payloads_come_back_as_they_went() {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();
    let handler = Handler::on("rich", move |event: Rich| {
        seen.push(event);
        async {}
    });
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.publish(&rich()).await.unwrap();

    // Unknown fields beside it, known ones left out.
    let mut body = serde_json::to_value(rich()).unwrap();
    body["_type"] = "test.rich".into();
    body["unknown"] = serde_json::json!({"of": ["no", "concern"]});

    for left_out in ["absent", "maybe", "defaulted"] {
        body.as_object_mut().unwrap().remove(left_out);
    }
    send_batch(&ezq, &queue, &[body.to_string()]).await;
    assert_eq!(drain(&ezq).await.counts.handled, 2);

    let seen = log.take();
    assert!(seen.contains(&rich()), "{seen:?}");
    assert!(
        seen.contains(&Rich {
            maybe: None,
            defaulted: 0,
            ..rich()
        }),
        "{seen:?}"
    );
}

#[tokio::test]
async fn numbers_of_any_length_come_back_digit_for_digit() {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();
    let handler = Handler::on("raw", move |event: Raw| {
        seen.push(event.0.get().to_owned());
        async {}
    });
    let ezq = app(&queue).register(handler).connect().await.unwrap();

    let numbers = [
        "9007199254740993",
        "18446744073709551616",
        "-123456789012345678901234567890123456789012345678901234567890",
        "0.1000000000000000055511151231257827021181583404541015625",
        "19.90",
        "123456789.123456789123456789123456789",
    ];

    for number in numbers {
        ezq.publish(&raw(number)).await.unwrap();
    }
    assert_eq!(drain(&ezq).await.counts.handled, 6);

    let mut expected = numbers.map(str::to_owned);
    expected.sort();
    assert_eq!(log.sorted(), expected);
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_handled_and_one_byte_more_refused() {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();
    let handler = Handler::on("raw", move |event: Raw| {
        seen.push(event.0.get().len());
        async {}
    });

    let ezq = app(&queue).register(handler).connect().await.unwrap();
    let text = |length: usize| raw(format!("\"{}\"", "x".repeat(length)));
    let size = |event: &Raw| {
        ezq.publish(event)
            .prepare()
            .map(|prepared| prepared.outgoing.body.len())
    };

    let around = size(&text(0)).unwrap();
    // The time's fraction has as many digits as it needs: take a body of the usual length.
    let mut length = 1024 * 1024 - around;

    let largest = loop {
        let prepared = ezq.publish(&text(length)).prepare();
        match prepared {
            Ok(prepared) if prepared.outgoing.body.len() == 1024 * 1024 => break prepared,
            Ok(prepared) => length += 1024 * 1024 - prepared.outgoing.body.len(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::TooLarge);
                length -= 1;
            }
        }
    };

    let engine = ezq.engine(&queue);
    engine.ensure_queue(&queue).await.unwrap();
    engine.publish(vec![largest.outgoing]).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 1);
    assert_eq!(log.take(), [length + 2]);

    let error = ezq.publish(&text(1024 * 1024)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().contains("1048576"), "{error}");

    let stricter = app(&queue).configure(|config| config.message_limit = around + 10);
    let stricter = stricter.connect().await.unwrap();
    assert_eq!(
        stricter.publish(&text(100)).await.unwrap_err().kind(),
        ErrorKind::TooLarge
    );
}

fn nested(levels: usize) -> String {
    let open = r#"{"a":["#.repeat(levels / 2);
    let close = "]}".repeat(levels / 2);
    let (first, last) = if levels % 2 == 1 {
        ("[", "]")
    } else {
        ("", "")
    };
    format!("{first}{open}{close}{last}")
}

#[derive(Event, Serialize, Deserialize, Debug)]
#[event(type = "test.tree")]
struct Tree(serde_json::Value);

#[tokio::test]
async fn a_hundred_levels_of_nesting_are_handled_and_too_many_refused() {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();
    let handler = Handler::on("tree", move |event: Tree| {
        seen.push(event.0.to_string().len());
        async {}
    });

    let ezq = app(&queue).register(handler).connect().await.unwrap();
    let envelope = |levels: usize| {
        let data = Envelope::builder("test.tree", "it")
            .json(&nested(levels))
            .unwrap();
        ezq.publish_envelope(data.build().unwrap())
    };

    for levels in [100, MAX_NESTING] {
        envelope(levels).await.unwrap();
    }

    assert_eq!(
        envelope(MAX_NESTING + 1).await.unwrap_err().kind(),
        ErrorKind::InvalidEvent
    );
    assert_eq!(
        envelope(5000).await.unwrap_err().kind(),
        ErrorKind::InvalidEvent
    );
    assert_eq!(drain(&ezq).await.counts.handled, 2);
    assert_eq!(log.sorted(), [nested(100).len(), nested(MAX_NESTING).len()]);
}

/// What another client sends, with what must become of it.
#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn what_cannot_be_handled_is_a_dead_letter_and_the_rest_of_the_batch_is_handled() {
    let flat = |data: &str| format!(r#"{{"_type": "test.numbered"{data}}}"#);
    let cloud = |members: &str| format!(r#"{{"specversion": "1.0"{members}}}"#);
    let full = r#", "id": "1", "source": "s", "type": "test.numbered""#;

    let undecodable = [
        r#"{"n": 1}"#.to_owned(),
        r#"{"_type": ""}"#.to_owned(),
        r#"{"_type": null, "n": 1}"#.to_owned(),
        r#"{"_type": 7, "n": 1}"#.to_owned(),
        "[]".to_owned(),
        "7".to_owned(),
        "null".to_owned(),
        r#""text""#.to_owned(),
        "{}".to_owned(),
        flat(""),
        flat(r#", "n": "one""#),
        flat(r#", "n": 1.5"#),
        flat(r#", "n": null"#),
        flat(r#", "n": 9223372036854775808"#),
        flat(&format!(r#", "n": {}"#, nested(128))),
        cloud(""),
        cloud(full),
        cloud(&format!(r#"{full}, "data": []"#)),
        cloud(&format!(r#"{full}, "data": {{"n": 1}}, "data_base64": """#)),
        cloud(&format!(r#"{full}, "data_base64": "AAEC""#)),
        cloud(&format!(
            r#"{full}, "data": {{"n": 1}}, "time": "yesterday""#
        )),
        cloud(&format!(r#"{full}, "data": {{"n": 1}}, "Bad_Name": 1"#)),
        cloud(&format!(r#"{full}, "data": {{"n": 1}}, "eventversion": 0"#)),
        cloud(r#", "id": "", "source": "s", "type": "test.numbered", "data": {"n": 1}"#),
        cloud(r#", "id": "1", "type": "test.numbered", "data": {"n": 1}"#),
        cloud(r#", "id": "1", "source": "s", "data": {"n": 1}"#),
        r#"{"specversion": "0.3", "id": "1", "source": "s", "type": "t"}"#.to_owned(),
    ];

    let queue = queue();
    let (handler, work) = Work::quick();
    let builder = app(&queue).register(handler).configure(|config| {
        config.unknown_types = ezq::config::UnknownTypes::DeadLetter;
    });

    let ezq = builder.connect().await.unwrap();
    let mut bodies = Vec::new();
    for (n, bad) in undecodable.iter().enumerate() {
        bodies.push(flat(&format!(r#", "n": {n}"#)));
        bodies.push(bad.clone());
    }
    bodies.push(r#"{"_type": "Unheard"}"#.to_owned());

    let ids = send_batch(&ezq, &queue, &bodies).await;
    let counts = drain(&ezq).await.counts;
    let bad = undecodable.len();
    assert_eq!(
        (counts.handled, counts.retried, counts.dead_lettered),
        (bad as u64, 0, bad as u64 + 1)
    );

    let all: Vec<i64> = (0..).take(bad).collect();
    assert_eq!(work.handled.sorted(), all);

    let letters: BTreeMap<_, _> = dead(&ezq, &queue)
        .await
        .into_iter()
        .map(|letter| {
            (
                letter.original_id.as_ref().unwrap().as_number().unwrap(),
                letter,
            )
        })
        .collect();

    for (id, body) in ids.iter().zip(&bodies).skip(1).step_by(2) {
        let letter = &letters[id];
        let reason = letter.reason.as_ref().unwrap();
        assert_eq!(reason.kind, ReasonKind::Undecodable, "{body}: {reason:?}");
        assert!(!reason.error.is_empty(), "{body}");
        let kept: serde_json::Value = serde_json::from_str(&letter.body).unwrap_or_default();
        let sent: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        assert_eq!(kept, sent, "kept as it was");
    }

    let unheard = &letters[ids.last().unwrap()];
    assert_eq!(
        unheard.reason.as_ref().unwrap().kind,
        ReasonKind::UnknownType
    );
}

#[tokio::test]
async fn a_message_that_is_sql_null_is_a_dead_letter() {
    let queue = queue();
    let (ezq, work) = connect(&queue).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    sqlx::query("SELECT pgmq.send($1, NULL::jsonb)")
        .bind(queue.as_str())
        .execute(ezq.pool())
        .await
        .unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!((counts.handled, counts.dead_lettered), (1, 1));
    assert_eq!(work.handled.take(), [1]);
    let reason = only_dead(&ezq, &queue).await.reason.unwrap();
    assert_eq!(reason.kind, ReasonKind::Undecodable);
}

#[tokio::test]
async fn headers_that_are_no_object_are_kept_along() {
    let queue = queue();
    let fails = Handler::on("fails", |event: Numbered, context: Context| async move {
        match (event.n, context.attempt()) {
            (1, _) | (2, 2) => Ok(()),
            (2, _) => Err(HandlerError::retry("once")),
            _ => Err(HandlerError::fatal("never")),
        }
    });

    let ezq = app(&queue).register(fails).connect().await.unwrap();
    ezq.engine(&queue).ensure_queue(&queue).await.unwrap();
    let headers = [r#"["a", 1]"#, "7", "\"text\"", "null"];

    for (n, headers) in (1..=3).flat_map(|n| headers.map(|headers| (n, headers))) {
        sqlx::query("SELECT pgmq.send($1, $2::text::jsonb, $3::text::jsonb)")
            .bind(queue.as_str())
            .bind(format!(r#"{{"_type": "test.numbered", "n": {n}}}"#))
            .bind(headers)
            .execute(ezq.pool())
            .await
            .unwrap();
    }

    let counts = drain(&ezq).await.counts;
    assert_eq!(
        (counts.handled, counts.retried, counts.dead_lettered),
        (8, 4, 4)
    );

    let kept: Vec<_> = dead(&ezq, &queue)
        .await
        .iter()
        .map(|letter| {
            letter
                .headers
                .value("ezq-original-headers")
                .map(ToString::to_string)
        })
        .collect();

    let text = |text: &str| Some(text.to_owned());
    assert_eq!(kept[..3], [text(r#"["a",1]"#), text("7"), text("\"text\"")]);
}
