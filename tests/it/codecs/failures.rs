//! What a codec cannot read or write, and codecs that panic or are not known.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ezq::admin::DeadLetterFilter;
use ezq::codec::{Body, Codec, CodecError, Origin};
use ezq::config::UnknownTypes;
use ezq::handler::{Backoff, RetryPolicy};
use ezq::message::ReasonKind;
use ezq::message::headers::Headers;
use ezq::{Envelope, ErrorKind, Handler};

use super::every::Doubled;
use super::{Hidden, with};
use crate::kit::{Numbered, Work, app, dead, drain, held, only_dead, queue, send_batch, soon};

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
    soon(handle).await.unwrap();
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

/// Writes what cannot be stored.
struct Bad(&'static str);

impl Codec for Bad {
    fn name(&self) -> &str {
        self.0
    }

    fn encode(&self, _: &Envelope, _: &mut Headers) -> Result<Body<'static>, CodecError> {
        match self.0 {
            "panics" => panic!("no"),
            "fails" => Err("no".into()),
            "no_json" => Ok(Body::json("{")),
            _ => Ok(Body::json("[".repeat(200) + &"]".repeat(200))),
        }
    }

    fn decode(&self, _: Body<'_>, _: Origin<'_>) -> Result<Envelope, CodecError> {
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
