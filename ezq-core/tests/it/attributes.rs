//! Names, sources, types and times are checked where they are said.

use chrono::{DateTime, FixedOffset, TimeZone};
use ezq_core::ErrorKind;
use ezq_core::app::AppBuilder;
use ezq_core::codec::{Origin, RawJson, decode};
use ezq_core::config::Config;
use ezq_core::event::{AttributeValue, Envelope, EnvelopeBuilder, Event};
use ezq_core::handler::Handler;
use ezq_core::message::headers::Headers;
use ezq_core::message::{MessageId, QueueName};
use ezq_core::testing::TestApp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Nameless {}

impl Event for Nameless {
    const TYPE: &'static str = "";
}

#[derive(Debug, Serialize, Deserialize)]
struct Homeless {}

impl Event for Homeless {
    const TYPE: &'static str = "homeless";
    const QUEUE: Option<&'static str> = Some("No Queue");
}

#[derive(Debug, Serialize, Deserialize)]
struct Keyed {
    key: String,
}

impl Event for Keyed {
    const TYPE: &'static str = "keyed";

    fn key(&self) -> Option<String> {
        Some(self.key.clone())
    }
}

type Change = fn(EnvelopeBuilder) -> EnvelopeBuilder;

fn event() -> EnvelopeBuilder {
    Envelope::builder("order.paid", "/shop")
}

fn at(offset: i32, year: i32) -> DateTime<FixedOffset> {
    let offset = FixedOffset::east_opt(offset).unwrap();
    offset.with_ymd_and_hms(year, 1, 1, 0, 0, 0).unwrap()
}

#[test]
fn an_attribute_that_is_none_is_refused_where_the_event_is_made() {
    let refused: [(&str, Change); 16] = [
        ("a year of five digits", |event| event.time(at(0, 10_000))),
        ("a year before the first", |event| event.time(at(0, -1))),
        ("an offset with seconds", |event| event.time(at(3630, 2026))),
        ("a noncharacter", |event| event.subject("a\u{FFFE}")),
        ("another", |event| event.subject("\u{FDD0}")),
        ("one of a higher plane", |event| event.id("\u{1FFFF}")),
        ("a noncharacter in an extension", |event| {
            event.extension("x", AttributeValue::Text("\u{FDEF}".into()))
        }),
        ("binary data that is not base64", |event| {
            event.data_base64("a!")
        }),
        ("base64 without its padding", |event| {
            event.data_base64("AAE")
        }),
        ("not a media type", |event| {
            event.datacontenttype("nonsense")
        }),
        ("a media type without a form", |event| {
            event.datacontenttype("text/")
        }),
        ("a parameter without a value", |event| {
            event.datacontenttype("text/plain; charset")
        }),
        ("a schema without a scheme", |event| event.dataschema(":")),
        ("a schema that is only a scheme", |event| {
            event.dataschema("https:")
        }),
        ("a relative schema", |event| {
            event.dataschema("/schemas/order")
        }),
        ("half an escape", |event| {
            event.dataschema("https://example.com/%2")
        }),
    ];

    for (what, change) in refused {
        let error = change(event()).build().expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{what}");
    }
    for source in [
        "a\"b", "my shop", "a<b>", "a{b}", "a|b", "a\\b", "a^b", "a`b", ":a", "1:a", "%zz",
    ] {
        let error = Envelope::builder("t", source).build().expect_err(source);
        assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{source}");
    }
}

#[test]
fn an_attribute_that_is_one_is_taken() {
    let taken: [Change; 8] = [
        |event| event.time(at(0, 9999)),
        |event| event.time(at(-12 * 3600 + 60, 1)),
        |event| event.subject("an order: 7 \u{1F600} \u{FFFD}"),
        |event| event.data_base64("AAE="),
        |event| event.data_base64(""),
        |event| event.datacontenttype("application/vnd.shop+json; charset=\"utf-8\"; v=1"),
        |event| event.dataschema("urn:shop:order"),
        |event| event.dataschema("https://example.com/%20#a"),
    ];

    taken
        .into_iter()
        .for_each(|change| drop(change(event()).build().unwrap()));

    for source in [
        "shop",
        "/shop",
        "https://shop.example/a?b=c#d",
        "urn:a",
        "a/b:c",
        "https://é.example/ü",
        "a%20b",
    ] {
        Envelope::builder("t", source).build().unwrap();
    }
}

#[test]
fn a_body_that_says_an_attribute_twice_is_refused() {
    let queue = QueueName::default();
    let message_id = MessageId::Number(1);
    let headers = Headers::new();
    let enqueued_at = chrono::Utc::now();
    let origin = Origin::new(&queue, &message_id, enqueued_at, &headers);
    for again in [
        r#""type":"u""#,
        r#""x":1,"x":2"#,
        r#""data":1,"data":2"#,
        r#""t\u0079pe":"u""#,
    ] {
        let body = format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t",{again}}}"#);
        assert_eq!(
            decode(&body, origin).unwrap_err().kind(),
            ErrorKind::Decode,
            "{body}"
        );
    }
}

#[test]
fn a_name_that_would_kill_every_event_is_refused_when_the_application_is_built() {
    let refused = |what: &str, build: fn(AppBuilder) -> AppBuilder| {
        let error = TestApp::new(build).expect_err(what);
        let kinds = [ErrorKind::Configuration, ErrorKind::InvalidQueueName];
        assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
    };

    refused("a name with a space", |app| app.app("my shop"));
    refused("a name with a quote", |app| app.app("a\"b"));
    refused("a name that looks like a scheme", |app| {
        app.app("my_shop:1")
    });
    refused("a codec of a type that cannot be", |app| {
        app.codec(RawJson::of("mine", "a\nb"))
    });

    refused("a codec of no type", |app| {
        app.codec(RawJson::of("mine", ""))
    });
    refused("a codec for a type that cannot be", |app| {
        app.event_codec("", "raw")
    });
    refused("a handler of a type that cannot be", |app| {
        app.register(Handler::on("nameless", |_: Nameless| async {}))
    });

    refused("a handler of a type whose queue cannot be", |app| {
        app.register(Handler::on("homeless", |_: Homeless| async {}))
    });
    refused("an owner of a type that cannot be", |app| {
        app.owns::<Nameless>()
    });
    TestApp::new(|app| app.app("https://shop.example/orders")).unwrap();
    assert!(Config::default().validate().is_ok());
}

#[tokio::test]
async fn an_empty_ordering_key_is_refused() {
    let app = TestApp::new(|app| app).unwrap();
    let refused = [
        app.publish(&Keyed { key: String::new() }).await,
        app.publish(&Keyed { key: "a".into() }).key("").await,
        app.publish(&Keyed { key: "a".into() }).subject("").await,
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidEvent);
    }
    app.publish(&Keyed { key: " ".into() }).await.unwrap();
}
