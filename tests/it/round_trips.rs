//! Whatever `publish` accepts, a handler reads back equal: under every codec, on both engines.

use std::collections::BTreeMap;
use std::fmt::Debug;

use ezq::codec::{self, Body, Codec, CodecError, Origin, WireFormat};
use ezq::message::headers::Headers;
use ezq::prelude::*;
use ezq::testing::TestApp;
use ezq::{App, Envelope, ErrorKind, Event, Handler};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::kit::{Log, app, queue, soon};

const EVERY: [&str; 5] = ["cloudevents", "flat", "ezvent", "raw", "reversed"];

/// One of one's own: the bytes of the body, from behind.
struct Reversed;

impl Codec for Reversed {
    fn name(&self) -> &str {
        "reversed"
    }

    fn encode(&self, event: &Envelope, _: &mut Headers) -> Result<Body<'static>, CodecError> {
        let mut bytes = codec::encode(event, WireFormat::CloudEvents)?.into_bytes();
        bytes.reverse();
        Ok(Body::bytes(bytes))
    }

    fn decode(&self, body: Body<'_>, origin: Origin<'_>) -> Result<Envelope, CodecError> {
        let text = body.as_bytes()?.iter().rev().copied().collect();
        Ok(codec::decode(&String::from_utf8(text)?, origin)?)
    }
}

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Numbers {
    double: f64,
    single: f32,
    signed: i64,
    unsigned: u64,
    wide: u128,
    maybe: Option<f64>,
    several: Vec<f64>,
    named: BTreeMap<String, f32>,
}

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Texts {
    text: String,
    letter: char,
    names: BTreeMap<String, Option<String>>,
    #[serde(rename = "id")]
    own_id: Option<String>,
    #[serde(flatten)]
    kind: Kind,
}

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Kind {
    Nothing,
    One(i32),
    Named { data: Option<bool>, time: (u8, i16) },
}

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Maybe(Option<BTreeMap<String, u8>>);

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Pair(i32, String);

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Unit;

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Empty {}

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Reserved {
    specversion: String,
}

fn doubles() -> impl Strategy<Value = f64> {
    let odd = prop::sample::select(vec![
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        5e-324,
        1e16,
        1e22,
        -0.0,
        0.1 + 0.2,
        9_007_199_254_740_993.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ]);
    prop_oneof![8 => any::<f64>(), 2 => odd]
}

fn singles() -> impl Strategy<Value = f32> {
    let odd = prop::sample::select(vec![f32::MAX, f32::MIN_POSITIVE, 1e-45, 1e16, f32::NAN]);
    prop_oneof![9 => any::<f32>(), 1 => odd]
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let named = prop::collection::btree_map(".{0,4}", any::<f32>(), 0..3);
    let whole = (any::<i64>(), any::<u64>(), any::<u128>());
    let several = prop::collection::vec(doubles(), 0..3);

    (
        doubles(),
        singles(),
        whole,
        prop::option::of(doubles()),
        several,
        named,
    )
        .prop_map(
            |(double, single, (signed, unsigned, wide), maybe, several, named)| Numbers {
                double,
                single,
                signed,
                unsigned,
                wide,
                maybe,
                several,
                named,
            },
        )
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Nothing),
        any::<i32>().prop_map(Kind::One),
        any::<(Option<bool>, (u8, i16))>().prop_map(|(data, time)| Kind::Named { data, time }),
    ]
}

fn texts() -> impl Strategy<Value = Texts> {
    let names = prop::collection::btree_map(any::<String>(), any::<Option<String>>(), 0..3);
    (
        any::<String>(),
        any::<char>(),
        names,
        any::<Option<String>>(),
        kinds(),
    )
        .prop_map(|(text, letter, names, own_id, kind)| Texts {
            text,
            letter,
            names,
            own_id,
            kind,
        })
}

fn several<T: Debug>(strategy: impl Strategy<Value = T>, count: usize) -> Vec<T> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..count)
        .map(|_| strategy.new_tree(&mut runner).unwrap().current())
        .collect()
}

/// Publishes each value, and compares what is handled with what was accepted.
async fn check<E>(app: &App, handled: &Log<(u64, E)>, values: &[E], place: &str) -> usize
where
    E: Event + Debug + Clone + PartialEq,
{
    let mut accepted = Vec::new();
    for (number, value) in (0_u64..).zip(values) {
        match soon(app.publish(value).header("number", number).into_future()).await {
            Ok(_) => accepted.push((number, value.clone())),
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::Encode | ErrorKind::InvalidEvent),
                "{place}: {value:?}: {error:?}"
            ),
        }
    }

    let report = soon(app.consumer().until_idle().run()).await.unwrap();
    assert_eq!(report.counts.dead_lettered, 0, "{place}");

    let mut found = handled.take();
    found.sort_by_key(|(number, _)| *number);
    assert_eq!(found, accepted, "{place}");
    accepted.len()
}

fn taking<E: Event + Clone + DeserializeOwned>(log: &Log<(u64, E)>) -> Handler {
    let log = log.clone();
    Handler::on(E::TYPE, move |event: E, context: Context| {
        log.push((
            context.headers().value("number").unwrap().as_u64().unwrap(),
            event,
        ));
        async {}
    })
}

/// How many of the values are accepted by each codec, on each engine.
async fn round_trips<E: Event + Debug + Clone + PartialEq>(values: &[E]) -> [[usize; 5]; 2] {
    let mut counts = [[0; 5]; 2];

    for (place, codec) in EVERY.into_iter().enumerate() {
        let log = Log::new();
        let queue = queue();
        let of_memory = TestApp::new(|app| {
            let app = app
                .codec(Reversed)
                .queue_codec(&queue, codec)
                .register(taking(&log));
            app.configure(|config| config.queue = queue.clone())
        });
        let memory = of_memory.unwrap();
        counts[0][place] = check(&memory, &log, values, &format!("{codec} in memory")).await;

        let builder = app(&queue).codec(Reversed).queue_codec(&queue, codec);
        let ezq = builder.register(taking(&log)).connect().await.unwrap();
        counts[1][place] = check(&ezq, &log, values, &format!("{codec} on PGMQ")).await;
    }

    counts
}

#[tokio::test]
async fn numbers_are_read_back_equal_or_refused() {
    let values = several(numbers(), 150);

    let is_finite = |value: &&Numbers| {
        let Numbers {
            double,
            single,
            maybe,
            several,
            named,
            ..
        } = value;

        let singles = named.values().chain([single]);
        several
            .iter()
            .chain(maybe)
            .chain([double])
            .all(|number| number.is_finite())
            && singles.copied().all(f32::is_finite)
    };

    let finite = values.iter().filter(is_finite).count();
    assert!(finite > 20 && finite < values.len());
    let counts = round_trips(&values).await;
    assert_eq!(counts[0], [finite; 5]);

    // A number's name may hold what `jsonb` does not take.
    assert!(
        counts[1]
            .iter()
            .all(|count| (finite / 2..=finite).contains(count)),
        "{counts:?}"
    );
}

#[tokio::test]
async fn texts_are_read_back_equal_or_refused() {
    let counts = round_trips(&several(texts(), 100)).await;
    assert_eq!(counts[0], [100; 5]);
    assert!(counts[1].iter().all(|count| *count > 50), "{counts:?}");
}

#[tokio::test]
async fn shapes_of_every_kind_are_read_back_equal_or_refused() {
    let maybe = [
        None,
        Some(BTreeMap::new()),
        Some(BTreeMap::from([("a".to_owned(), 1)])),
    ];
    assert_eq!(round_trips(&maybe.map(Maybe)).await, [[3; 5]; 2]);
    assert_eq!(round_trips(&[Unit]).await, [[1; 5]; 2]);
    assert_eq!(round_trips(&[Empty {}]).await, [[1; 5]; 2]);

    // The flat form is an object, and tells by a name what it is.
    assert_eq!(
        round_trips(&[Pair(1, "a".into())]).await,
        [[1, 0, 0, 1, 1]; 2]
    );
    assert_eq!(round_trips(&[Kind::Nothing]).await, [[1, 0, 0, 1, 1]; 2]);

    let reserved = Reserved {
        specversion: "1.0".into(),
    };
    assert_eq!(round_trips(&[reserved]).await, [[1, 0, 0, 1, 1]; 2]);
}

/// What a catch-all sees of an event known only at run time.
#[tokio::test]
async fn data_that_is_absent_null_or_binary_stays_so() {
    for (place, codec) in EVERY.into_iter().enumerate() {
        let log = Log::new();
        let queue = queue();
        let seen = log.clone();
        let any = Handler::on("any", move |event: AnyEvent| {
            let envelope = event.envelope();
            let text = |text: Option<&str>| text.map(str::to_owned);
            seen.push((text(envelope.data()), text(envelope.data_base64())));
            async {}
        });

        let ezq = app(&queue)
            .codec(Reversed)
            .queue_codec(&queue, codec)
            .register(any);

        let ezq = ezq.connect().await.unwrap();
        let event = || Envelope::builder("t", "s");
        ezq.publish_envelope(event().build().unwrap())
            .await
            .unwrap();
        ezq.publish_envelope(event().json("null").unwrap().build().unwrap())
            .await
            .unwrap();
        ezq.publish_envelope(event().json("{}").unwrap().build().unwrap())
            .await
            .unwrap();

        let binary = ezq
            .publish_envelope(event().data_base64("AAE=").build().unwrap())
            .await;
        soon(ezq.consumer().concurrency(1).until_idle().run())
            .await
            .unwrap();

        let mut expected = vec![
            (None, None),
            (Some("null".into()), None),
            (Some("{}".into()), None),
        ];
        match [true, false, false, false, true][place] {
            true => expected.push((None, Some("AAE=".into()))),
            false => assert!(binary.is_err(), "{codec}"),
        }
        assert_eq!(log.take(), expected, "{codec}");
    }
}

#[tokio::test]
async fn json_in_base64_is_read_as_json() {
    let log = Log::new();
    let app = TestApp::new(|app| app.register(taking::<Pair>(&log))).unwrap();

    // [1,"a"]
    let event = || Envelope::builder(Pair::TYPE, "s").data_base64("WzEsImEiXQ==");
    let json = |envelope: Envelope| {
        app.publish_envelope(envelope)
            .header("number", 1)
            .into_future()
    };
    json(event().build().unwrap()).await.unwrap();

    for media_type in [
        "application/json",
        "Application/Problem+JSON; charset=utf-8",
    ] {
        json(event().datacontenttype(media_type).build().unwrap())
            .await
            .unwrap();
    }

    json(event().datacontenttype("image/png").build().unwrap())
        .await
        .unwrap();

    let counts = app.drain().await.unwrap().counts;
    assert_eq!((counts.handled, counts.dead_lettered), (3, 1));
    assert_eq!(log.take(), vec![(1, Pair(1, "a".into())); 3]);
}

#[tokio::test]
async fn what_is_no_number_is_refused_with_its_place() {
    let app = TestApp::new(|app| app).unwrap();
    let numbers = Numbers {
        double: 0.0,
        single: 0.0,
        signed: 0,
        unsigned: 0,
        wide: 0,
        maybe: None,
        several: vec![1.0, f64::NAN],
        named: BTreeMap::new(),
    };

    let error = app.publish(&numbers).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    assert!(
        ezq::error::error_chain(&error).contains("`several[1]`"),
        "{error:?}"
    );

    let hidden = Numbers {
        maybe: Some(f64::NEG_INFINITY),
        several: Vec::new(),
        ..numbers
    };

    let error = app.publish(&hidden).await.unwrap_err();
    assert!(
        ezq::error::error_chain(&error).contains("`maybe`"),
        "{error:?}"
    );
    let error = Envelope::builder("t", "s").data(&hidden).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
}
