//! Relays against a broker that does as it is told, in paused time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::async_trait;
use ezq_core::broker::{Outbound, SendOutcome, Sink, SinkCapabilities};
use ezq_core::config::Config;
use ezq_core::engine::{Engine as _, Outgoing};
use ezq_core::event::Envelope;
use ezq_core::handler::HandlerOptions;
use ezq_core::message::headers::Headers;
use ezq_core::message::{HandlerName, QueueName};
use ezq_core::relay::Relay;
use ezq_core::testing::TestApp;
use ezq_core::{Error, ErrorKind};
use tokio::time::{Instant, timeout};

use crate::fixtures::Step;

/// What the broker does with one call.
#[derive(Clone, Copy)]
enum Answer {
    /// The call fails.
    Away,
    /// It never answers.
    Hang,
    /// It answers one outcome too few.
    Short,
    /// It stores messages whose number is even.
    FailOdd,
    /// It refuses messages whose number is odd, for good.
    RejectOdd,
}

/// Stores messages, after it has given the answers that it was told to give.
#[derive(Clone, Default)]
struct Broker {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    stored: Arc<Mutex<Vec<(String, String, u32)>>>,
    /// What it was sent, in structured mode.
    bodies: Arc<Mutex<Vec<String>>>,
    calls: Arc<Mutex<Vec<Instant>>>,
    is_ill: Arc<AtomicBool>,
    is_closed: Arc<AtomicBool>,
}

impl Broker {
    fn told(answers: impl IntoIterator<Item = Answer>) -> Self {
        let broker = Self::default();
        broker.answers.lock().unwrap().extend(answers);
        broker
    }

    fn numbers(&self) -> Vec<u32> {
        self.stored
            .lock()
            .unwrap()
            .iter()
            .map(|(.., n)| *n)
            .collect()
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// Waits, in paused time, until so many messages are stored.
    async fn has_stored(&self, count: usize) {
        let stored = async {
            while self.numbers().len() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let limit = Duration::from_secs(3600);
        timeout(limit, stored).await.expect("the broker gets them");
    }

    fn store(&self, message: &Outbound) -> SendOutcome {
        let step: Step = message.envelope().decode().unwrap();
        let of = (message.topic().to_owned(), message.id().to_owned(), step.n);
        self.stored.lock().unwrap().push(of);
        let body = String::from_utf8(message.structured().unwrap()).unwrap();
        self.bodies.lock().unwrap().push(body);
        SendOutcome::Sent
    }
}

fn is_odd(message: &Outbound) -> bool {
    message.envelope().decode::<Step>().unwrap().n % 2 == 1
}

fn failure() -> Error {
    Error::new(ErrorKind::Transient, "the broker is away")
}

#[async_trait]
impl Sink for Broker {
    fn capabilities(&self) -> &SinkCapabilities {
        const {
            &SinkCapabilities::new("scripted")
                .ordered()
                .max_message(1_000)
        }
    }

    async fn health_check(&self) -> ezq_core::Result<()> {
        match self.is_ill.load(Ordering::Relaxed) {
            true => Err(failure()),
            false => Ok(()),
        }
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    async fn send(&self, batch: &[Outbound]) -> ezq_core::Result<Vec<SendOutcome>> {
        self.calls.lock().unwrap().push(Instant::now());
        let answer = self.answers.lock().unwrap().pop_front();
        let outcomes = batch.iter().map(|message| match answer {
            Some(Answer::FailOdd) if is_odd(message) => SendOutcome::Failed(failure()),
            Some(Answer::RejectOdd) if is_odd(message) => SendOutcome::Rejected(failure()),
            _ => self.store(message),
        });

        match answer {
            Some(Answer::Away) => Err(failure()),
            Some(Answer::Hang) => std::future::pending().await,
            Some(Answer::Short) => Ok(Vec::new()),
            _ => Ok(outcomes.collect()),
        }
    }
}

/// An application whose relay gives every event one attempt.
fn app(relay: Relay) -> TestApp {
    let once = |config: &mut Config| {
        let options = HandlerOptions::default().max_attempts(1);
        config
            .handlers
            .insert(HandlerName::from("relay:outbox"), options);
    };
    TestApp::new(|app| app.queue("outbox").configure(once).register(relay)).unwrap()
}

async fn publish(app: &TestApp, count: u32) {
    let steps: Vec<Step> = (0..count).map(|n| Step { n }).collect();
    app.publish_all(&steps).await.unwrap();
}

async fn dead(app: &TestApp) -> u64 {
    let queue = QueueName::new("outbox").unwrap();
    app.stats(&queue).await.unwrap().dead
}

#[tokio::test(start_paused = true)]
async fn events_reach_the_topic_that_their_type_is_routed_to() {
    let broker = Broker::default();
    let relay = Relay::new("outbox", broker.clone()).topic("rest");
    let app = app(relay.route("step", "steps").unwrap());
    publish(&app, 3).await;

    app.drain().await.unwrap();
    assert_eq!(broker.numbers(), [0, 1, 2]);
    assert_eq!(broker.calls(), 1, "one call for the whole batch");
    let stored = broker.stored.lock().unwrap();
    assert!(stored.iter().all(|(topic, ..)| topic == "steps"));
}

#[tokio::test(start_paused = true)]
async fn a_stored_body_goes_out_as_it_is_unless_it_is_another_than_the_event() {
    let broker = Broker::default();
    let app = app(Relay::new("outbox", broker.clone()));
    let whole =
        r#"{"data": {"n": 0}, "type": "step", "specversion": "1.0", "id": "a", "source": "s"}"#;
    let with_null = whole.replace("\"a\"", "\"b\", \"word\": null");
    let queue = QueueName::new("outbox").unwrap();
    let flat = r#"{"_type": "step", "n": 2}"#;
    let messages =
        [whole, &with_null, flat].map(|body| Outgoing::new(queue.clone(), body, Headers::new()));
    app.engine().ensure_queue(&queue).await.unwrap();
    app.engine().publish(messages.into()).await.unwrap();

    let consumer = app.consumer().spawn();
    broker.has_stored(3).await;
    consumer.stop();
    consumer.await.unwrap();
    let bodies = broker.bodies.lock().unwrap();
    assert!(bodies.iter().any(|body| body == whole), "{bodies:?}");
    assert!(bodies.iter().all(|body| !body.contains("null")));
    assert!(bodies.iter().all(|body| body.contains("specversion")));
}

#[test]
fn a_route_that_is_no_pattern_is_refused() {
    let relay = Relay::new("outbox", Broker::default()).route("ord*er", "orders");
    assert_eq!(relay.unwrap_err().kind(), ErrorKind::InvalidPattern);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_broker_refuses_becomes_a_dead_letter_and_holds_up_no_other() {
    let broker = Broker::told([Answer::RejectOdd]);
    let app = app(Relay::new("outbox", broker.clone()));
    publish(&app, 4).await;

    let consumer = app.consumer().spawn();
    broker.has_stored(2).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(broker.numbers(), [0, 2]);
    assert_eq!(dead(&app).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_for_minutes_costs_no_attempt() {
    let broker = Broker::told([Answer::Away; 200]);
    let app = app(Relay::new("outbox", broker.clone()));
    publish(&app, 5).await;

    let consumer = app.consumer().spawn();
    let began = Instant::now();
    broker.has_stored(5).await;
    assert!(
        began.elapsed() > Duration::from_secs(120),
        "{:?}",
        began.elapsed()
    );
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(dead(&app).await, 0);
    assert_eq!(broker.numbers(), [0, 1, 2, 3, 4], "each of them once");
}

#[tokio::test(start_paused = true)]
async fn events_that_were_not_stored_are_sent_again_with_their_ids_and_without_the_others() {
    let broker = Broker::told([Answer::FailOdd, Answer::FailOdd]);
    let app = app(Relay::new("outbox", broker.clone()));
    publish(&app, 4).await;

    let consumer = app.consumer().spawn();
    broker.has_stored(4).await;
    consumer.stop();
    consumer.await.unwrap();
    let mut numbers = broker.numbers();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert_eq!(dead(&app).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_does_not_answer_gets_the_batch_again() {
    let broker = Broker::told([Answer::Hang, Answer::Short]);
    let limit = Duration::from_secs(3);
    let app = app(Relay::new("outbox", broker.clone()).send_timeout(limit));
    publish(&app, 2).await;

    let consumer = app.consumer().spawn();
    broker.has_stored(2).await;
    consumer.stop();
    consumer.await.unwrap();
    let calls = broker.calls.lock().unwrap();
    assert_eq!(calls.len(), 3);
    assert!(calls[1] - calls[0] >= limit);
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_broker_that_is_away() {
    let broker = Broker::told([Answer::Away; 10_000]);
    let app = app(Relay::new("outbox", broker.clone()));
    publish(&app, 5).await;

    let consumer = app.consumer().spawn();
    while broker.calls() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    consumer.stop();
    let ended = timeout(Duration::from_secs(15), consumer).await;
    ended.expect("it stops").unwrap();

    // Nothing is lost: another run sends them.
    broker.answers.lock().unwrap().clear();
    let consumer = app.consumer().spawn();
    broker.has_stored(5).await;
    consumer.stop();
    consumer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rate_spaces_what_is_sent() {
    let broker = Broker::default();
    let relay = Relay::new("outbox", broker.clone()).batch_size(10).rate(10);
    let app = app(relay);
    publish(&app, 50).await;

    let consumer = app.consumer().spawn();
    let began = Instant::now();
    broker.has_stored(50).await;
    consumer.stop();
    consumer.await.unwrap();
    assert!(
        began.elapsed() >= Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn events_of_a_key_keep_their_order_while_the_broker_fails() {
    let broker = Broker::told([Answer::FailOdd, Answer::Away, Answer::FailOdd]);
    let app = app(Relay::new("outbox", broker.clone()));
    for n in 0..12 {
        app.publish(&Step { n }).key("ada").await.unwrap();
    }

    let consumer = app.consumer().spawn();
    broker.has_stored(12).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(broker.numbers(), (0..12).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn events_of_one_key_do_not_wait_for_others() {
    let broker = Broker::default();
    let wait = Duration::from_millis(100);
    let app = app(Relay::new("outbox", broker.clone()).batch_wait(wait));
    for n in 0..200 {
        app.publish(&Step { n }).key("ada").await.unwrap();
    }

    let began = Instant::now();
    let consumer = app.consumer().spawn();
    broker.has_stored(200).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(broker.numbers(), (0..200).collect::<Vec<_>>());
    // Each batch holds one event of the key. Only one that nobody waits behind waits for others.
    assert!(began.elapsed() < wait * 50, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_does_not_answer_is_seen_in_health_and_closed_with_the_application() {
    let broker = Broker::default();
    let app = app(Relay::new("outbox", broker.clone()));
    let consumer = app.consumer().spawn();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(app.health().await.is_ready());

    broker.is_ill.store(true, Ordering::Relaxed);
    let health = app.health().await;
    assert!(!health.is_ready() && health.is_live(), "{health}");
    assert!(health.to_string().contains("scripted"), "{health}");
    consumer.stop();
    consumer.await.unwrap();
    app.close().await;
    assert!(broker.is_closed.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_no_call_could_send_is_given_up_and_not_sent() {
    let broker = Broker::default();
    let app = app(Relay::new("outbox", broker.clone()));
    publish(&app, 1).await;
    let text = format!("\"{}\"", "x".repeat(1_000));
    let large = Envelope::builder("large", "shop").json(&text).unwrap();
    app.publish_envelope(large.build().unwrap()).await.unwrap();
    let consumer = app.consumer().spawn();
    broker.has_stored(1).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(dead(&app).await, 1);
}
