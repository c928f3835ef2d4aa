//! Broadcasting across applications: who gets a copy, when, and who is never asked again.

mod applications;
mod parties;

use std::collections::BTreeSet;
use std::time::Duration;

use ezq::admin::Recipient;
use ezq::memory::MemoryEngine;
use ezq::prelude::*;
use ezq::sqlx::{self, PgConnection};
use ezq::{ErrorKind, Handler, QueueName};
use serde::{Deserialize, Serialize};

pub(crate) use self::applications::{Member, take_part};
use self::applications::{OrderCreated, UserCreated, builder, member, parts};
use crate::child::Process;
use crate::database::{connection, run, scalar, server, unique, until};
use crate::kit::{Log, Numbered, app, drain, queue, soon};

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(type = "order.*")]
struct Starred {}

fn name(text: &str) -> QueueName {
    QueueName::new(text).unwrap()
}

/// A database of its own: subscriptions belong to all of it.
async fn database() -> (String, PgConnection) {
    let name = unique("broadcast");
    let mut admin = connection(&server().await.url()).await;
    run(&mut admin, &format!("CREATE DATABASE {name}")).await;
    let url = server().await.database_url(name.as_str());
    let own = connection(&url).await;
    (url, own)
}

async fn bystander(url: &str, app: &str) -> Ezq {
    builder(url, app).connect().await.unwrap()
}

const ALL: [(&str, &str, &str); 6] = [
    ("audit", "audit", "#"),
    ("mail", "mail", "order.created"),
    ("mail", "welcome", "user.created"),
    ("shop", "shop", "OrderPaid"),
    ("shop", "shop", "order.created"),
    ("shop", "shop", "order.paid"),
];

async fn standing(ezq: &Ezq) -> Vec<(String, String, String)> {
    let listed = ezq.subscriptions().unwrap().list().await.unwrap();
    let told = |one: ezq::admin::QueueSubscription| {
        (one.app, one.queue.to_string(), one.pattern.to_string())
    };
    let mut all: Vec<_> = listed.into_iter().map(told).collect();
    all.sort();
    all
}

fn owned(all: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
    all.iter()
        .map(|(a, q, p)| ((*a).to_owned(), (*q).to_owned(), (*p).to_owned()))
        .collect()
}

fn names(recipients: &[Recipient]) -> Vec<&str> {
    recipients
        .iter()
        .map(|recipient| recipient.queue.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_processes_of_three_applications_leave_exactly_the_right_subscriptions() {
    let (url, _) = database().await;
    let apps = [
        "shop", "mail", "audit", "shop", "mail", "audit", "shop", "mail", "audit", "shop",
    ];

    // Not even PGMQ is there.
    let mut members: Vec<Process> = apps.iter().map(|app| member(&url, app, false)).collect();
    for member in &mut members {
        member.hear("up").await;
    }

    for member in &mut members {
        member.tell("go").await;
    }

    for member in &mut members {
        member.hear("subscribed").await;
    }
    let ezq = bystander(&url, "other").await;
    assert_eq!(standing(&ezq).await, owned(&ALL));

    let recipients = ezq
        .subscriptions()
        .unwrap()
        .test("order.created")
        .await
        .unwrap();
    assert_eq!(names(&recipients), ["audit", "mail", "shop"]);

    let sent = ezq.broadcast(&UserCreated { user: 1 }).await.unwrap();
    let queues: Vec<_> = sent.copies.iter().map(|copy| copy.queue.as_str()).collect();
    assert_eq!(queues, ["audit", "welcome"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_reaches_another_application_and_that_one_answers() {
    let (url, mut own) = database().await;
    let (shop, _) = parts(builder(&url, "shop"), "shop");
    let shop = shop.connect().await.unwrap();
    soon(shop.consumer().queue("shop").subscribe().until_idle().run())
        .await
        .unwrap();

    let mut mail = member(&url, "mail", true);
    mail.hear("up").await;
    mail.tell("go").await;
    mail.hear("subscribed").await;

    let mut tx = shop.pool().begin().await.unwrap();
    let sent = shop
        .broadcast(&OrderCreated { order: 1, total: 5 })
        .within(&mut tx)
        .await
        .unwrap();
    assert_eq!(sent.copies.len(), 2);

    tx.rollback().await.unwrap();
    let mut tx = shop.pool().begin().await.unwrap();
    let sent = shop
        .broadcast(&OrderCreated { order: 2, total: 5 })
        .within(&mut tx)
        .await
        .unwrap();

    assert_eq!(
        scalar::<i64>(&mut own, "SELECT count(*) FROM pgmq.q_shop").await,
        0
    );
    tx.commit().await.unwrap();

    // Only the order that was committed is confirmed, and paid for.
    assert_eq!(mail.hear("confirmed").await, "2");

    let paid = "SELECT count(*) = 1 FROM pgmq.q_shop
                WHERE message ->> 'type' = 'order.paid' AND message ->> 'source' = 'mail'";
    until(&mut own, paid).await;

    let ids = "SELECT array_agg(message ->> 'id') FROM pgmq.q_shop
               WHERE message ->> 'type' = 'order.created'";
    assert_eq!(scalar::<Vec<String>>(&mut own, ids).await, [sent.event_id]);
    assert_eq!(mail.stop().await.matches("1 handled").count(), 1);
}

#[tokio::test]
async fn a_consumer_subscribes_only_where_that_is_said() {
    let (url, _) = database().await;
    let ezq = parts(builder(&url, "shop"), "shop")
        .0
        .connect()
        .await
        .unwrap();
    soon(ezq.consumer().queue("shop").until_idle().run())
        .await
        .unwrap();
    assert_eq!(standing(&ezq).await, []);

    let sent = ezq.broadcast(&UserCreated { user: 1 }).await.unwrap();
    assert!(sent.copies.is_empty() && sent.missing.is_empty());

    let always = parts(builder(&url, "shop"), "shop")
        .0
        .configure(|config| config.subscribe = true);
    let always = always.connect().await.unwrap();
    soon(always.consumer().queue("shop").until_idle().run())
        .await
        .unwrap();
    assert_eq!(standing(&ezq).await, owned(&ALL[3..]));
}

#[tokio::test]
async fn a_start_only_adds_and_a_removal_counts_for_the_next_event_everywhere() {
    let (url, _) = database().await;
    let old = builder(&url, "shop")
        .register(Handler::on("users", |_: UserCreated| async {}))
        .connect()
        .await
        .unwrap();
    soon(old.consumer().queue("shop").subscribe().until_idle().run())
        .await
        .unwrap();

    let new = parts(builder(&url, "shop"), "shop")
        .0
        .connect()
        .await
        .unwrap();
    soon(new.consumer().queue("shop").subscribe().until_idle().run())
        .await
        .unwrap();

    // A rolling deployment: what the old version handles still reaches it.
    let publisher = bystander(&url, "other").await;
    let copies = async || {
        publisher
            .broadcast(&UserCreated { user: 1 })
            .await
            .unwrap()
            .copies
            .len()
    };
    assert_eq!(copies().await, 1);

    let subscriptions = new.subscriptions().unwrap();
    assert_eq!(subscriptions.prune(&[name("shop")]).await.unwrap(), 1);
    assert_eq!(copies().await, 0);
    assert_eq!(standing(&new).await, owned(&ALL[3..]));
    assert_eq!(subscriptions.prune(&[name("shop")]).await.unwrap(), 0);

    // Another's subscription is another's.
    assert!(
        publisher
            .subscriptions()
            .unwrap()
            .add("shop", "order.#")
            .await
            .unwrap()
    );

    assert!(
        !publisher
            .subscriptions()
            .unwrap()
            .add("shop", "order.#")
            .await
            .unwrap()
    );
    assert!(!subscriptions.remove("shop", "order.#").await.unwrap());
    assert!(subscriptions.remove("shop", "order.paid").await.unwrap());
    assert_eq!(subscriptions.prune([""; 0]).await.unwrap(), 2);
    assert_eq!(standing(&new).await, owned(&[("other", "shop", "order.#")]));

    let recipients = subscriptions.test("order.paid").await.unwrap();
    assert_eq!(names(&recipients), ["shop"]);
    assert!(recipients[0].exists && recipients[0].subscriptions[0].app == "other");
    assert_eq!(subscriptions.remove_app("other").await.unwrap(), 1);
    assert_eq!(standing(&new).await, []);
}

#[tokio::test]
async fn what_a_handler_broadcasts_goes_out_with_its_transaction() {
    let (url, mut own) = database().await;
    let target = queue();
    let queue = queue();
    let log: Log<bool> = Log::new();
    let told = log.clone();

    let handler = move |event: Numbered, mut tx: Tx, publisher: Publisher, context: Context| {
        let told = told.clone();
        async move {
            sqlx::query("INSERT INTO done VALUES ($1)")
                .bind(event.n)
                .execute(&mut *tx)
                .await?;

            let sent = publisher.broadcast(&UserCreated { user: event.n }).await?;
            told.push(sent.is_pending && sent.copies.is_empty());
            if context.attempt() == 1 {
                return Err(HandlerError::retry("not yet"));
            }
            Ok(())
        }
    };

    let ezq = app(&queue)
        .database_url(&url)
        .register(Handler::on("book", handler));
    let ezq = ezq.connect().await.unwrap();

    run(&mut own, "CREATE TABLE done (n bigint)").await;
    ezq.engine(&target).ensure_queue(&target).await.unwrap();
    ezq.subscriptions()
        .unwrap()
        .add(&target, "user.#")
        .await
        .unwrap();

    ezq.publish(&Numbered { n: 7 }).await.unwrap();
    drain(&ezq).await;
    assert_eq!(log.take(), [true, true]);
    assert_eq!(
        scalar::<Vec<i64>>(&mut own, "SELECT array_agg(n) FROM done").await,
        [7]
    );

    let copies = format!("SELECT array_agg(message #>> '{{data,user}}') FROM pgmq.q_{target}");
    assert_eq!(scalar::<Vec<String>>(&mut own, &copies).await, ["7"]);

    // It knows what caused it.
    let cause = format!("SELECT count(*) FROM pgmq.q_{target} WHERE headers ? 'causation-id'");
    assert_eq!(scalar::<i64>(&mut own, &cause).await, 1);
}

#[tokio::test]
async fn a_dropped_queue_is_told_and_the_others_get_their_copies() {
    let (url, mut own) = database().await;
    let ezq = bystander(&url, "shop").await;
    for queue in ["one", "two", "three"].map(name) {
        ezq.engine(&queue).ensure_queue(&queue).await.unwrap();
        ezq.subscriptions().unwrap().add(&queue, "#").await.unwrap();
    }

    run(&mut own, "SELECT pgmq.drop_queue('two')").await;
    let told = |sent: ezq::publish::Broadcasted| {
        let copies = sent.copies.iter().map(|copy| copy.queue.to_string());
        (copies.collect::<Vec<_>>(), sent.missing)
    };

    let expected = (
        vec!["one".to_owned(), "three".to_owned()],
        vec![name("two")],
    );
    assert_eq!(
        told(ezq.broadcast(&UserCreated { user: 1 }).await.unwrap()),
        expected
    );

    let mut tx = ezq.pool().begin().await.unwrap();
    assert_eq!(
        told(
            ezq.broadcast(&UserCreated { user: 2 })
                .within(&mut tx)
                .await
                .unwrap()
        ),
        expected
    );

    // The transaction is as good as before.
    tx.commit().await.unwrap();
    for queue in ["one", "three"].map(name) {
        assert_eq!(ezq.stats(&queue).await.unwrap().ready, 2);
    }

    let recipients = ezq
        .subscriptions()
        .unwrap()
        .test("user.created")
        .await
        .unwrap();

    let missing: Vec<_> = recipients.iter().filter(|one| !one.exists).collect();
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0].queue, name("two"));

    // Its consumer makes it anew, and it is subscribed as before.
    soon(ezq.consumer().queue("two").until_idle().run())
        .await
        .unwrap();

    assert_eq!(
        ezq.broadcast(&UserCreated { user: 3 })
            .await
            .unwrap()
            .copies
            .len(),
        3
    );
}

#[tokio::test]
async fn options_reach_every_copy() {
    let (url, mut own) = database().await;
    let ezq = bystander(&url, "shop").await;
    for queue in ["one", "two"].map(name) {
        ezq.engine(&queue).ensure_queue(&queue).await.unwrap();
        ezq.subscriptions()
            .unwrap()
            .add(&queue, "order.*")
            .await
            .unwrap();
    }

    let hour = Duration::from_secs(3600);
    let broadcast = || {
        let broadcast = ezq.broadcast(&OrderCreated { order: 7, total: 5 });
        broadcast
            .after(hour)
            .subject("order 7")
            .header("priority", 9)
            .dedupe_key("order-7")
    };

    let sent = broadcast().await.unwrap();
    let again = broadcast().await.unwrap();
    assert!(
        again
            .copies
            .iter()
            .all(|copy| copy.is_duplicate && copy.event_id == sent.event_id)
    );

    let ids = |sent: &ezq::publish::Broadcasted| -> BTreeSet<_> {
        sent.copies
            .iter()
            .map(|copy| (copy.queue.clone(), copy.id.clone()))
            .collect()
    };
    assert_eq!(ids(&sent), ids(&again));

    for queue in ["one", "two"] {
        let sql = format!(
            "SELECT count(*) FROM pgmq.q_{queue} WHERE vt > now() + interval '50 min'
               AND headers ->> 'x-pgmq-group' = '7' AND headers ->> 'priority' = '9'
               AND message ->> 'subject' = 'order 7' AND message ->> 'id' = '{}'",
            sent.event_id
        );
        assert_eq!(scalar::<i64>(&mut own, &sql).await, 1);

        // As after any event with a key.
        let indexes = format!("SELECT to_regclass('pgmq.q_{queue}_ezq_keys') IS NOT NULL");
        assert!(scalar::<bool>(&mut own, &indexes).await);
    }

    assert!(ezq.cancel(&sent.copies[0]).await.unwrap());
    assert_eq!(ezq.stats(&name("two")).await.unwrap().scheduled, 1);
}

#[tokio::test]
async fn what_cannot_be_broadcast_or_subscribed_is_refused() {
    let (url, _) = database().await;
    let elsewhere = name("elsewhere");
    let ezq = builder(&url, "shop").named_engine("memory", MemoryEngine::new());
    let ezq = ezq
        .queue_engine(&elsewhere, "memory")
        .connect()
        .await
        .unwrap();
    let refused = ezq.broadcast(&End::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidEvent);

    let subscriptions = ezq.subscriptions().unwrap();
    let refused = subscriptions.add(&elsewhere, "#").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);

    let refused = ezq.consumer().queue(&elsewhere).subscribe().run();
    assert_eq!(
        soon(refused).await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );

    let refused = subscriptions.add("shop", "order*").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidPattern);
    let refused = subscriptions.add("sh op", "order.*").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidQueueName);

    // A type's name is no pattern, whatever it looks like.
    let star = builder(&url, "shop").register(Handler::on("star", |_: Starred| async {}));
    let star = star.connect().await.unwrap();
    let refused = soon(star.consumer().queue("shop").subscribe().until_idle().run()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidPattern);
    assert_eq!(subscriptions.list().await.unwrap(), []);

    let long = "a".repeat(256);
    let refused = builder(&url, &long).connect().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Configuration);
}
