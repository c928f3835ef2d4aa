use std::cell::Cell;
use std::hash::{Hash, Hasher};

use serde_json::{Value, json};

use super::members::{FEW, repeated};
use super::*;
use crate::event::{End, Event};
use crate::message::headers::Headers;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;

fn read(body: &str) -> Result<Envelope> {
    let queue = QueueName::new("orders").unwrap();
    let enqueued_at = "2026-01-02T03:04:05Z".parse().unwrap();
    let message_id = &MessageId::Number(7);
    let headers = &Headers::new();

    decode(
        body,
        Origin {
            queue: &queue,
            message_id,
            enqueued_at,
            headers,
        },
    )
}

fn why(body: &str) -> String {
    let error = read(body).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    error.to_string()
}

#[test]
fn keeps_every_attribute_on_a_round_trip() {
    let body = r#"{"specversion":"1.0","id":"1","source":"/shop","type":"order.created","time":"2026-01-02T03:04:05.678901234+02:00","subject":"o7","datacontenttype":"application/json","dataschema":"https://example.com/o","number":7,"flag":true,"word":"x","data":{"a":1.10}}"#;
    let envelope = read(body).unwrap();
    assert_eq!(encode(&envelope, WireFormat::CloudEvents).unwrap(), {
        // Extensions are written in the order of their names.
        body.replace(r#""number":7,"flag":true,"#, r#""flag":true,"number":7,"#)
    });
}

#[test]
fn knows_a_body_that_says_all_of_its_event_and_nothing_else() {
    let queue = QueueName::new("orders").unwrap();
    let message_id = &MessageId::Number(7);
    let headers = &Headers::new();
    let enqueued_at = "2026-01-02T03:04:05Z".parse().unwrap();
    let origin = Origin::new(&queue, message_id, enqueued_at, headers);
    let is_structured = |members: &str| {
        let body = format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t"{members}}}"#);
        super::read(&body, origin).unwrap().is_structured
    };

    for whole in [
        "",
        r#","data":null"#,
        r#","data_base64":"AQID","datacontenttype":"image/png""#,
        r#","time":"2026-01-02T03:04:05Z","subject":"o7","dataschema":"https://example.com/o","flag":true,"data":{}"#,
    ] {
        assert!(is_structured(whole), "{whole}");
    }
    // What is read as absent would go out with the body.
    for other in [
        r#","subject":null"#,
        r#","data_base64":null,"data":1"#,
        r#","word":null"#,
        r#","_type":"t""#,
    ] {
        assert!(!is_structured(other), "{other}");
    }
    let flat = super::read(r#"{"_type":"t","a":1}"#, origin).unwrap();
    assert!(!flat.is_structured);
}

#[test]
fn keeps_big_integers_and_decimals_as_they_are() {
    let data = r#"{"n":123456789012345678901234567890,"d":0.10000000000000000000001}"#;
    let body = format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","data":{data}}}"#);
    assert_eq!(read(&body).unwrap().data(), Some(data));
}

#[test]
fn refuses_what_cloudevents_refuses() {
    let valid = json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t"});
    for (name, value) in [
        ("specversion", json!("0.3")),
        ("id", json!("")),
        ("id", json!(7)),
        ("source", json!("")),
        ("source", json!("a b")),
        ("type", json!("")),
        ("time", json!("yesterday")),
        ("subject", json!("")),
        ("dataschema", json!("no uri")),
        ("bad_name", json!("x")),
        ("Name", json!("x")),
        ("fraction", json!(1.5)),
        ("big", json!(2_147_483_648_i64)),
        ("object", json!({})),
    ] {
        let mut body = valid.clone();
        body[name] = value;
        assert_eq!(
            read(&body.to_string()).unwrap_err().kind(),
            ErrorKind::Decode,
            "{body}"
        );
    }

    for name in ["id", "source", "type"] {
        let mut body = valid.clone();
        body.as_object_mut().unwrap().remove(name);
        assert_eq!(
            why(&body.to_string()),
            format!("the attribute `{name}` is missing")
        );
    }

    let mut both = valid.clone();
    both["data"] = json!(1);
    both["data_base64"] = json!("AA==");
    assert_eq!(
        why(&both.to_string()),
        "the body has both `data` and `data_base64`"
    );
}

#[test]
fn reads_null_attributes_as_absent() {
    let body = r#"{"specversion":"1.0","id":"1","source":"s","type":"t","subject":null,"x":null}"#;
    let envelope = read(body).unwrap();
    assert_eq!((envelope.subject(), envelope.extensions().len()), (None, 0));
}

#[test]
fn reads_the_flat_form_of_python() {
    let envelope = read(r#"{"_type":"UserCreated","user_id":1,"id":"mine","type":2}"#).unwrap();
    assert_eq!(envelope.event_type(), "UserCreated");
    assert_eq!(envelope.id(), "orders:7");
    assert_eq!(
        envelope.data(),
        Some(r#"{"user_id":1,"id":"mine","type":2}"#)
    );
    assert_eq!(
        envelope.time().unwrap().to_rfc3339(),
        "2026-01-02T03:04:05+00:00"
    );
}

#[test]
fn specversion_wins_over_type() {
    let body = r#"{"_type":"A","specversion":"1.0","id":"1","source":"s","type":"b"}"#;
    assert_eq!(read(body).unwrap().event_type(), "b");
}

#[test]
fn refuses_bodies_that_are_no_event() {
    for body in ["null", "1", "\"x\"", "[1]", "{}", "{\"a\":1}", "", "{"] {
        read(body).unwrap_err();
    }
    assert_eq!(why(r#"{"_type":""}"#), "`_type` is empty");
    assert_eq!(why(r#"{"_type":null}"#), "`_type` is empty");
    assert_eq!(why(r#"{"_type":3}"#), "`_type` is not text");
}

#[test]
fn writes_the_flat_form() {
    let write = |data: Value| {
        let envelope = Envelope::builder("UserCreated", "s")
            .data(&data)
            .unwrap()
            .build()
            .unwrap();
        encode(&envelope, WireFormat::Flat)
    };
    assert_eq!(
        write(json!({"user_id": 1})).unwrap(),
        r#"{"_type":"UserCreated","user_id":1}"#
    );
    assert_eq!(write(json!({})).unwrap(), r#"{"_type":"UserCreated"}"#);
    assert_eq!(write(Value::Null).unwrap(), r#"{"_type":"UserCreated"}"#);
    assert_eq!(
        write(json!([1])).unwrap_err().kind(),
        ErrorKind::InvalidEvent
    );
    assert_eq!(
        write(json!({"_type": 1})).unwrap_err().kind(),
        ErrorKind::InvalidEvent
    );

    let end = Envelope::builder(End::TYPE, "s")
        .data(&End::default())
        .unwrap()
        .build()
        .unwrap();
    assert_eq!(
        encode(&end, WireFormat::Flat).unwrap(),
        r#"{"_type":"EZQEndEvent"}"#
    );
    assert_eq!(
        encode(&end, WireFormat::Ezvent).unwrap(),
        r#"{"_type":"EZEndEvent"}"#
    );
}

#[test]
fn refuses_nesting_that_could_not_be_read_back() {
    let nested = |levels: usize| {
        let text = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let envelope = Envelope::builder("t", "s")
            .json(&text)
            .unwrap()
            .build()
            .unwrap();
        encode(&envelope, WireFormat::CloudEvents)
    };

    let body = nested(MAX_NESTING).unwrap();
    serde_json::from_str::<Value>(read(&body).unwrap().data().unwrap()).unwrap();
    assert_eq!(
        nested(MAX_NESTING + 1).unwrap_err().kind(),
        ErrorKind::InvalidEvent
    );

    let text = r#"{"a":"[[[\"[["}"#;
    assert_eq!(nesting(text), 1);
}

/// A name that counts how often it is compared.
#[derive(Clone, Copy)]
struct Counted<'a> {
    name: &'a str,
    compared: &'a Cell<usize>,
}

impl PartialEq for Counted<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.compared.set(self.compared.get() + 1);
        self.name == other.name
    }
}

impl Eq for Counted<'_> {}

impl Hash for Counted<'_> {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.name.hash(to);
    }
}

#[test]
fn a_name_that_comes_twice_is_found_with_few_comparisons() {
    for count in [2, 3, 32, 33, 34, 1_000, 10_000] {
        let mut names: Vec<String> = (0..count).map(|n| n.to_string()).collect();
        let compared = Cell::new(0);
        let found = |names: &[String]| {
            compared.set(0);
            let counted = names.iter().map(|name| Counted {
                name,
                compared: &compared,
            });
            repeated(counted).map(|found| found.name.to_owned())
        };
        assert_eq!(found(&names), None);
        assert!(
            compared.get() <= count * FEW,
            "{} of {count}",
            compared.get()
        );

        names[count - 1] = names[count / 2 - 1].clone();
        assert_eq!(found(&names), Some((count / 2 - 1).to_string()));
        assert!(
            compared.get() <= count * FEW,
            "{} of {count}",
            compared.get()
        );
    }
}

#[test]
fn a_body_of_very_many_members_is_read() {
    let members: Vec<String> = (0..115_000).map(|n| format!(r#""x{n}":1"#)).collect();
    let event = r#""specversion":"1.0","id":"1","source":"s","type":"t""#;
    let body = format!("{{{event},{}}}", members.join(","));
    assert_eq!(read(&body).unwrap().extensions().len(), members.len());
    let body = format!("{{{event},{},{}}}", members.join(","), members[0]);
    assert_eq!(why(&body), "the body has `x0` twice");
}
