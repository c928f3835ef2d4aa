//! A shop at work, for a walk through every screen: the one of `ezq dev --demo`, with some that failed,
//! and with operators who act.

use std::time::Duration;

use ezq::admin::{EventFilter, EventState};
use ezq::consumer::ConsumersHandle;
use ezq::testing::TestDatabase;
use ezq::{CancellationToken, Ezq, sqlx};
use tokio::task::JoinHandle;

use crate::stage::publish;

// Packages do not have tests, so one file serves both crates.
#[path = "../../../ezq-cli/src/demo/shop.rs"]
mod demo;

/// A shop with a running worker and customers.
pub(crate) struct Shop {
    pub(crate) ezq: Ezq,
    /// The screens of single things: the name of each, and its path.
    pub(crate) screens: Vec<(&'static str, String)>,
    worker: ConsumersHandle,
    customers: JoinHandle<()>,
    stop: CancellationToken,
}

impl Shop {
    pub(crate) async fn open(database: &TestDatabase) -> Self {
        let ezq = demo::application(&database.url()).await.unwrap();
        demo::open(&ezq).await.unwrap();
        // Cards that have expired, and orders that the bank does not answer.
        for order in (0..25)
            .map(|n| n * 40 + 3)
            .chain((0..6).map(|n| n * 60 + 7))
        {
            let data = format!(r#"{{"order": {order}, "cents": {}}}"#, 500 + order);
            publish(&ezq, "payments", "payment.wanted", &data).await;
        }
        let stop = CancellationToken::new();
        let mut shop = Self {
            screens: Vec::new(),
            worker: ezq.consumer().subscribe().spawn_all().unwrap(),
            customers: tokio::spawn(demo::customers(ezq.clone(), stop.clone())),
            ezq,
            stop,
        };
        shop.wait_for_failures().await;
        shop.tables_and_replays().await;
        shop.operators().await;
        shop
    }

    /// Waits until some events have died, and others wait for another attempt.
    async fn wait_for_failures(&self) {
        let failed = async {
            loop {
                let payments = self.ezq.queues().get("payments").await.unwrap();
                if payments.dead.value >= 30 && !payments.retrying.is_zero() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, failed).await.unwrap();
    }

    async fn tables_and_replays(&self) {
        let table = "CREATE TABLE customers (id bigint PRIMARY KEY, name text, password text)";
        sqlx::raw_sql(table).execute(self.ezq.pool()).await.unwrap();
        let capture = self.ezq.capture("public.customers").queue("orders");
        let capture = capture.named("customers").without(["password"]);
        capture.key("id").await.unwrap();
        let replay = self.ezq.pgmq().replay("reserve anew", "orders");
        replay.await.unwrap();
    }

    /// What two operators did, of which one operation was stopped and another one lost its process.
    async fn operators(&mut self) {
        let ezq = &self.ezq;
        let pause = ezq.queues().pause("reports").by("grace");
        pause.reason("the printer is out of paper").await.unwrap();
        // Many copies of one that died in earnest.
        sqlx::raw_sql(
            "INSERT INTO pgmq.q_payments_dlq (vt, message, headers)
             SELECT vt, message, headers
             FROM (SELECT * FROM pgmq.q_payments_dlq ORDER BY msg_id LIMIT 20) d, generate_series(1, 60)",
        )
        .execute(ezq.pool())
        .await
        .unwrap();
        let events = ezq.events("payments").unwrap();
        let first = events.page(EventState::Dead).limit(3).await.unwrap();
        let letters: Vec<_> = first
            .events
            .iter()
            .map(ezq::admin::EventRef::from)
            .collect();
        for letter in &letters[1..] {
            let discard = events.discard(letter.clone()).by("ada");
            discard.reason("test cards").await.unwrap();
        }

        let refused = EventFilter::all().error("gave no answer");
        let ended = events.all(EventState::Dead).filter(refused);
        let ended = ended.redrive().by("grace").reason("the bank is back");
        ended.await.unwrap();
        let expired = EventFilter::all().error("expired");
        let all = || events.all(EventState::Dead).filter(expired.clone());
        let stopped = all().discard().by("grace").reason("cards of the fair");
        let stopped = stopped.start().await.unwrap().id;
        ezq.operations().step(&stopped).await.unwrap();
        ezq.operations().step(&stopped).await.unwrap();
        ezq.operations().stop(&stopped).by("ada").await.unwrap();
        let lost = all().redrive().by("ada").start().await.unwrap().id;
        ezq.operations().step(&lost).await.unwrap();
        sqlx::query(
            "UPDATE ezq.operations SET began_at = began_at - interval '5 minutes', moved_at = now() - interval '4 minutes' WHERE id = $1",
        )
        .bind(&lost)
        .execute(ezq.pool())
        .await
        .unwrap();
        let left = events.page(EventState::Dead).limit(1).await.unwrap();
        let letter = ezq::admin::EventRef::from(&left.events[0]);
        // Nobody consumes it, so it stays as it is.
        let data = r#"{"order": 9007199254740993, "customer": "ada", "cents": 1250}"#;
        let event = publish(ezq, "invoices", "invoice.wanted", data).await;
        self.screens = vec![
            ("operation", format!("/ops/operations/{stopped}")),
            ("operation-stalled", format!("/ops/operations/{lost}")),
            ("message", format!("/ops/queues/invoices/events/{event}")),
            (
                "dead-letter",
                format!("/ops/queues/payments/dead/{}", letter.id()),
            ),
        ];
    }

    pub(crate) async fn close(self) {
        self.stop.cancel();
        let _ = self.customers.await;
        self.worker.interrupt();
        self.worker.await.unwrap();
        self.ezq.close().await;
    }
}
