//! Every stop is heard in every state, whatever hangs: a stop within its grace, an interrupt and a
//! second signal within a second.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::app::App;
use ezq_core::consumer::{ConsumerHandle, StopReason};
use ezq_core::engine::Engine;
use ezq_core::event::{End, Interrupt};
use ezq_core::handler::{Backoff, Batch, Extract, Handler, HandlerError};
use ezq_core::message::QueueName;
use ezq_core::schedule::Schedule;
use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::faulty::{Call, Faulty};
use crate::fixtures::{Mail, Step};

/// Has a transaction, and does nothing with it.
struct Within;

impl Extract for Within {
    const TRANSACTION: bool = true;

    async fn extract(_: &ezq_core::handler::Call) -> Result<Self, HandlerError> {
        Ok(Self)
    }
}

/// What a consumer is at when it is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Handling,
    /// A call to the store is never answered.
    Hangs(Call),
    /// The database is away.
    CannotStart,
    /// It failed, and starts again in hours.
    Pausing,
    GathersABatch,
    WaitsForABatchsTurn,
    WaitsForAHandlersTurn,
    DrainsToAnEnd,
    DrainsToAnInterrupt,
    HandlesAnEnd,
    /// Everything is handled, and nothing can be settled.
    CannotSettle,
}

const STATES: [State; 21] = [
    State::Idle,
    State::Handling,
    State::Hangs(Call::EnsureQueue),
    State::Hangs(Call::Subscribe),
    State::Hangs(Call::LookAtSchedules),
    State::Hangs(Call::Wakeups),
    State::Hangs(Call::Lease),
    State::Hangs(Call::Extend),
    State::Hangs(Call::Settle),
    State::Hangs(Call::Publish),
    State::Hangs(Call::Begin),
    State::Hangs(Call::Commit),
    State::CannotStart,
    State::Pausing,
    State::GathersABatch,
    State::WaitsForABatchsTurn,
    State::WaitsForAHandlersTurn,
    State::DrainsToAnEnd,
    State::DrainsToAnInterrupt,
    State::HandlesAnEnd,
    State::CannotSettle,
];

/// How it is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Token,
    Handle,
    Interrupt,
    HandleThenInterrupt,
    Signal,
    TwoSignals,
}

const WAYS: [Way; 6] = [
    Way::Token,
    Way::Handle,
    Way::Interrupt,
    Way::HandleThenInterrupt,
    Way::Signal,
    Way::TwoSignals,
];

impl Way {
    fn is_patient(self) -> bool {
        matches!(self, Self::Token | Self::Handle | Self::Signal)
    }
}

const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(7);
const HOURS: Duration = Duration::from_secs(10_000);

/// A handler that does what the state needs.
fn handler(state: State) -> Handler {
    let handler = match state {
        State::GathersABatch => Handler::on_batch("steps", |_: Batch<Step>| async {}),
        State::WaitsForABatchsTurn => Handler::on_batch("steps", |_: Batch<Step>| pending::<()>()),
        State::Hangs(Call::Publish) => Handler::on("steps", |_: Step| async { Mail {} }),
        State::Hangs(Call::Begin | Call::Commit) => {
            Handler::on("steps", |_: Step, _: Within| async {})
        }
        State::Hangs(Call::Settle) | State::CannotSettle | State::Pausing => {
            Handler::on("steps", |_: Step| async {})
        }
        _ => Handler::on("steps", |_: Step| pending::<()>()),
    };

    let handler = match state {
        State::GathersABatch => handler.batch_size(10).batch_wait(HOURS),
        State::WaitsForABatchsTurn => handler.batch_size(2).concurrency(1),
        State::WaitsForAHandlersTurn => handler.concurrency(1),
        _ => handler,
    };
    handler.timeout(None)
}

/// An engine with the faults of a state.
fn engine(state: State) -> Faulty {
    let engine = match state {
        // It is another engine's.
        State::Hangs(Call::Publish) => Faulty::default(),
        State::Hangs(call) => Faulty::hanging(call),
        _ => Faulty::default(),
    };

    engine
        .faults
        .away
        .store(state == State::CannotStart, Ordering::SeqCst);
    engine
        .faults
        .panics
        .store(state == State::Pausing, Ordering::SeqCst);

    if state == State::CannotSettle {
        let failures = std::iter::repeat_n(ErrorKind::Connection, 1_000_000);
        engine.faults.settle.lock().unwrap().extend(failures);
    }

    let mut capabilities = engine.memory.capabilities().clone();
    capabilities.transactions = matches!(state, State::Hangs(Call::Begin | Call::Commit));
    Faulty {
        capabilities: Some(capabilities),
        ..engine
    }
}

/// A consumer, once it is in a state.
async fn consumer_in(state: State, token: &CancellationToken) -> ConsumerHandle {
    let engine = engine(state);
    let mail = QueueName::new("mail").unwrap();
    let builder = App::builder()
        .without_discovered_handlers()
        .register(handler(state))
        .register(Handler::on("ends", |_: End| pending::<()>()).timeout(None))
        .schedule("hourly", Schedule::every("1d"), &Step { n: 0 })
        .named_engine("other", Faulty::hanging(Call::Publish))
        .queue_engine(&mail, "other")
        .configure(|config| config.lease = HOURS);

    let app = builder.build(engine.clone()).unwrap();
    let queue = QueueName::default();
    engine.memory.ensure_queue(&queue).await.unwrap();
    let mut events = vec![app.publish(&Step { n: 0 }).prepare().unwrap().outgoing; 4];

    match state {
        State::Idle => events.clear(),
        State::HandlesAnEnd => {
            events = vec![app.publish(&End::default()).prepare().unwrap().outgoing];
        }
        State::DrainsToAnEnd => {
            events.push(app.publish(&End::default()).prepare().unwrap().outgoing);
        }
        State::DrainsToAnInterrupt => {
            events.push(
                app.publish(&Interrupt::default())
                    .prepare()
                    .unwrap()
                    .outgoing,
            );
        }
        _ => {}
    }

    engine.memory.publish(events).await.unwrap();

    let consumer = app
        .consumer()
        .concurrency(2)
        .grace(GRACE)
        .stop_on(token.clone());

    let consumer = consumer
        .stop_on_signals()
        .restart(Backoff::constant(HOURS))
        .subscribe();
    let consumer = consumer.spawn();

    // Time is paused: it goes on when nothing else is left to do.
    tokio::time::sleep(10 * SECOND).await;
    assert!(consumer.is_running(), "{state:?}: {}", consumer.state());
    consumer
}

/// Sends this process a signal; done when it has come.
async fn signal_this_process(own: &mut Signal) {
    let process = std::process::id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-TERM", &process])
        .status()
        .unwrap();
    assert!(sent.success());

    // Time is paused, but a signal takes its time.
    while own.recv().now_or_never().is_none() {
        std::thread::sleep(Duration::from_millis(1));
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_stop_is_heard_in_every_state() {
    // Without a listener a signal would end the tests.
    let mut own = signal(SignalKind::terminate()).unwrap();
    for way in WAYS {
        for state in STATES {
            let token = CancellationToken::new();
            let consumer = consumer_in(state, &token).await;
            let mut asked = Instant::now();

            match way {
                Way::Token => token.cancel(),
                Way::Handle => consumer.stop(),
                Way::Interrupt => consumer.interrupt(),
                Way::HandleThenInterrupt => {
                    consumer.stop();
                    tokio::time::sleep(SECOND).await;
                    asked = Instant::now();
                    consumer.interrupt();
                }
                Way::Signal => signal_this_process(&mut own).await,
                Way::TwoSignals => {
                    signal_this_process(&mut own).await;
                    tokio::time::sleep(SECOND).await;
                    asked = Instant::now();
                    signal_this_process(&mut own).await;
                }
            }

            let most = if way.is_patient() {
                GRACE + SECOND
            } else {
                SECOND
            };

            let ended = tokio::time::timeout(HOURS, consumer).await;
            let Ok(ended) = ended else {
                panic!("{state:?} does not hear {way:?}")
            };
            let report = ended.unwrap();

            let reason = match way {
                _ if state == State::HandlesAnEnd => StopReason::End,
                Way::Token => StopReason::Token,
                Way::Handle | Way::Interrupt | Way::HandleThenInterrupt => StopReason::Handle,
                Way::Signal | Way::TwoSignals => StopReason::Signal,
            };
            assert_eq!(report.reason, reason, "{state:?}, {way:?}");
            assert!(
                asked.elapsed() <= most,
                "{state:?}, {way:?}: {:?}",
                asked.elapsed()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_not_answered_is_given_up_soon_after_a_stop() {
    for call in [Call::Lease, Call::Claim] {
        let mut engine = Faulty::hanging(call);
        let mut capabilities = engine.memory.capabilities().clone();
        capabilities.transactions = true;
        engine.capabilities = Some(capabilities);

        let handler = Handler::on_batch("steps", |_: Batch<Step>, _: Within| async {});
        let builder = App::builder()
            .without_discovered_handlers()
            .register(handler.batch_size(2));
        let app = builder.build(engine.clone()).unwrap();
        let steps: Vec<Step> = (0..100).map(|n| Step { n }).collect();
        app.publish_all(&steps).await.unwrap();

        let consumer = app.consumer().concurrency(2).spawn();
        tokio::time::sleep(10 * SECOND).await;
        assert!(
            engine.faults.hung.lock().unwrap().contains(&call),
            "{call:?} was not made"
        );

        let asked = Instant::now();
        consumer.stop();

        let ended = tokio::time::timeout(HOURS, consumer).await;
        let report = ended
            .unwrap_or_else(|_| panic!("it waits for {call:?}"))
            .unwrap();
        assert_eq!(report.reason, StopReason::Handle);
        assert!(
            asked.elapsed() <= 6 * SECOND,
            "{call:?}: {:?}",
            asked.elapsed()
        );
    }
}
