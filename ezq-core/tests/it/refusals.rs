//! Settlements that the store refuses, each for itself: no event that a handler returned is lost, and
//! no event that was handled becomes a dead letter.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::*;
use serde::{Deserialize, Serialize};

use crate::faulty::Faulty;
use crate::fixtures::{Mail, Step};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn mail() -> QueueName {
    QueueName::new("mail").unwrap()
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(secs(600), what).await.expect("it is stuck")
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let all = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(secs(600), all).await.expect(what);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_lost_is_told_from_a_lock_in_the_same_batch() {
    let engine = Faulty::default();
    let handler = Handler::on("quick", |_: Step| async {});
    let app = App::builder().without_discovered_handlers().register(handler).build(engine.clone());
    let app = app.unwrap();
    let published = app.publish_all(&[Step { n: 0 }, Step { n: 1 }]).await.unwrap();
    let unheard = published[0].id.clone();
    let mut tries = BTreeMap::new();
    *engine.faults.judge.lock().unwrap() = Some(Box::new(move |receipt, _| {
        let count = tries.entry(receipt.message_id().as_number()).or_insert(0);
        *count += 1;
        (*count == 1).then_some(match *receipt.message_id() == unheard {
            true => ErrorKind::Connection,
            false => ErrorKind::Transient,
        })
    }));
    let report = within(app.consumer().until_idle().run()).await.unwrap();
    assert_eq!(engine.faults.batches.lock().unwrap()[0].1, 2, "two batches prove nothing");
    assert_eq!((report.counts.handled, report.counts.lost), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_missing_queue_is_created_beside_a_lock_in_the_same_batch() {
    let engine = Faulty::default();
    let handler =
        Handler::on("sends", |step: Step| async move { (step.n == 0).then_some(Mail {}) });
    let app = App::builder().without_discovered_handlers().register(handler).build(engine.clone());
    let app = app.unwrap();
    let published = app.publish_all(&[Step { n: 0 }, Step { n: 1 }]).await.unwrap();
    let id = published[1].id.as_number().unwrap();
    engine.faults.locked.lock().unwrap().insert(id);
    let consumer = app.consumer().spawn();
    until("the queue is not created", || consumer.counts().handled == 1).await;
    assert_eq!(engine.faults.batches.lock().unwrap()[0].1, 2, "two batches prove nothing");
    assert_eq!(engine.memory.published(&mail()).len(), 1);
    engine.faults.locked.lock().unwrap().clear();
    until("the lock is gone", || consumer.counts().handled == 2).await;
    consumer.stop();
    within(consumer.wait()).await.unwrap();
}
