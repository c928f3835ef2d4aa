//! Dead letters and histories as events, and CloudEvents from outside as envelopes.

use ezq_core::admin::DeadLetterFilter;
use ezq_core::codec::{Body, Codec, CodecError, Origin};
use ezq_core::engine::DeadLetters as _;
use ezq_core::event::{Envelope, Event};
use ezq_core::handler::{AnyEvent, Handler, HandlerError};
use ezq_core::message::headers::Headers;
use ezq_core::message::{QueueName, Retention};
use ezq_core::testing::TestApp;
use ezq_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::fixtures::Step;

/// Writes CloudEvents backwards, as bytes.
struct Backwards;

impl Codec for Backwards {
    fn name(&self) -> &str {
        "backwards"
    }

    fn encode(&self, event: &Envelope, _: &mut Headers) -> Result<Body<'static>, CodecError> {
        let mut bytes = serde_json::to_vec(event)?;
        bytes.reverse();
        Ok(Body::bytes(bytes))
    }

    fn decode(&self, body: Body<'_>, _: Origin<'_>) -> Result<Envelope, CodecError> {
        let bytes: Vec<u8> = body.as_bytes()?.iter().rev().copied().collect();
        Ok(serde_json::from_slice(&bytes)?)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Other {}

impl Event for Other {
    const TYPE: &'static str = "other";
}

fn fatal() -> Handler {
    let die = |_: Step| async { Err::<(), _>(HandlerError::fatal("no")) };
    Handler::on("fatal", die)
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_read_as_its_event_whatever_codec_wrote_it() {
    for codec in ["cloudevents", "flat", "raw", "backwards"] {
        let app = TestApp::new(|app| {
            app.codec(Backwards)
                .queue_codec("ezq", codec)
                .register(fatal())
        })
        .unwrap();
        let published = app.publish(&Step { n: 7 }).await.unwrap();
        app.drain().await.unwrap();

        let letters = app.dead_letters("ezq").unwrap();
        let listed = letters.list(&DeadLetterFilter::all(), 10).await.unwrap();
        let letter = &listed[0];
        assert_eq!(letter.event::<Step>().unwrap().n, 7, "{codec}");
        assert_eq!(letter.event_type().as_deref(), Some("step"), "{codec}");
        assert_eq!(
            letter.event::<Other>().unwrap_err().kind(),
            ErrorKind::Decode
        );
        // The flat form has no id but that of its place.
        if codec != "flat" {
            assert_eq!(
                letter.event_id(),
                Some(published.event_id.clone()),
                "{codec}"
            );
            assert_eq!(letter.envelope().unwrap().id(), published.event_id);
        }

        let found = letters.get(&letter.id).await.unwrap().unwrap();
        assert_eq!(found.event::<Step>().unwrap().n, 7, "{codec}");
        let from_kit = app.assert_dead_lettered::<Step>();
        assert_eq!(from_kit.event::<Step>().unwrap().n, 7, "{codec}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_letter_of_an_engine_has_no_codecs() {
    let app = TestApp::new(|app| app.register(fatal())).unwrap();
    app.publish(&Step { n: 7 }).await.unwrap();
    app.drain().await.unwrap();
    let queue = QueueName::default();
    let letters = app.engine().list(&queue, None, 1).await.unwrap();
    let error = letters[0].event::<Step>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn a_history_shows_events_and_a_trail_only_that_there_was_one() {
    for (retention, is_kept) in [
        (Retention::ARCHIVE, true),
        (
            Retention::trail_for(std::time::Duration::from_secs(60)),
            false,
        ),
    ] {
        let app = TestApp::new(|app| {
            app.codec(Backwards)
                .queue_codec("ezq", "backwards")
                .retention("ezq", retention)
                .register(Handler::on("all", |_: AnyEvent| async {}))
        })
        .unwrap();
        let published = app.publish(&Step { n: 7 }).await.unwrap();
        app.drain().await.unwrap();

        let history = app.history(&published.event_id).await.unwrap();
        let event = history.copies[0].event::<Step>().unwrap();
        assert_eq!(event.is_some(), is_kept);
        if let Some(event) = event {
            assert_eq!(event.n, 7);
            let envelope = history.copies[0].envelope().unwrap().unwrap();
            assert_eq!(envelope.id(), published.event_id);
        }
    }
}

const WEBHOOK: &str = r#"{"specversion": "1.0", "id": "in-7", "source": "/billing",
    "type": "step", "time": "2026-11-26T18:00:00Z", "tenant": "north", "data": {"n": 1.0e1}}"#;

#[test]
fn an_envelope_is_read_from_any_json_and_written_back() {
    let from_text: Envelope = WEBHOOK.parse().unwrap();
    let from_bytes: Envelope = serde_json::from_slice(WEBHOOK.as_bytes()).unwrap();
    let from_reader: Envelope = serde_json::from_reader(WEBHOOK.as_bytes()).unwrap();
    for envelope in [&from_text, &from_bytes, &from_reader] {
        assert_eq!((envelope.id(), envelope.source()), ("in-7", "/billing"));
        assert_eq!(
            envelope.data(),
            Some(r#"{"n": 1.0e1}"#),
            "the data is the text that it was"
        );
        assert_eq!(envelope.extensions().len(), 1);
    }

    let value: serde_json::Value = serde_json::from_str(WEBHOOK).unwrap();
    let from_value: Envelope = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(&from_value).unwrap(), value);
    let again: Envelope = serde_json::to_string(&from_text).unwrap().parse().unwrap();
    assert_eq!(serde_json::to_value(&again).unwrap(), value);
}

#[test]
fn what_is_no_cloud_event_is_refused() {
    let refused = |text: &str| {
        let error: Error = text.parse::<Envelope>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{text}");
        assert!(serde_json::from_str::<Envelope>(text).is_err(), "{text}");
    };
    refused("[]");
    refused("no json");
    refused(r#"{"specversion": "0.3", "id": "1", "source": "s", "type": "t"}"#);
    refused(r#"{"_type": "step", "n": 1}"#);
    refused(r#"{"specversion": "1.0", "id": "1", "source": "s"}"#);
    refused(r#"{"specversion": "1.0", "id": "1", "id": "2", "source": "s", "type": "t"}"#);
    let text = serde_json::from_str::<Envelope>(r#"{"specversion": "1.0"}"#).unwrap_err();
    assert!(text.to_string().contains("missing"), "{text}");
}

/// What the handler of a webhook's route does, in any web framework.
async fn receive(app: &TestApp, body: &[u8]) -> Result<String, Error> {
    let envelope: Envelope = serde_json::from_slice(body)
        .map_err(|error| Error::new(ErrorKind::Decode, error.to_string()))?;
    Ok(app.publish_envelope(envelope).await?.event_id)
}

#[tokio::test(start_paused = true)]
async fn a_cloud_event_of_a_webhook_is_published_as_it_is() {
    let app = TestApp::new(|app| app).unwrap();
    let body = WEBHOOK.replace("1.0e1", "10");
    assert_eq!(receive(&app, body.as_bytes()).await.unwrap(), "in-7");
    assert_eq!(app.assert_published::<Step>().n, 10);
    assert!(receive(&app, b"{}").await.is_err());
}
