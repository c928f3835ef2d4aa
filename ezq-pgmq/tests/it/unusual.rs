//! What other clients and administrators may do to a queue: it harms that queue only.

use ezq_core::ErrorKind;
use ezq_core::engine::{Engine, LeaseRequest, Settle, SettleOutcome};
use ezq_core::message::QueueName;
use ezq_pgmq::{PgmqConfig, PgmqEngine};

use crate::support::*;

fn request(queue: &QueueName) -> LeaseRequest {
    LeaseRequest::new(queue.clone(), 10, TTL).keys(10)
}

#[tokio::test]
async fn a_message_parked_for_ever_is_left_alone() {
    let (engine, queue) = engine_and_queue().await;
    let mut connection = connection().await;
    let park = format!("INSERT INTO pgmq.q_{queue} (vt, message) VALUES ('infinity', '{{}}')");
    run(&mut connection, &park).await;
    let leased = engine.lease(request(&queue)).await.unwrap();
    assert!(leased.deliveries.is_empty(), "{leased:?}");
    assert!(leased.next_due.is_none_or(|due| due > TTL), "{leased:?}");
    assert_eq!(engine.stats(&queue).await.unwrap().scheduled, 1);
}

#[tokio::test]
async fn a_message_of_no_time_is_handed_out_and_given_back_like_any_other() {
    let (engine, queue) = engine_and_queue().await;
    let mut connection = connection().await;
    let send = format!(
        "INSERT INTO pgmq.q_{queue} (vt, enqueued_at, message) VALUES
         ('-infinity', '-infinity', '1'), (now(), 'infinity', '2')"
    );
    run(&mut connection, &send).await;
    assert!(engine.stats(&queue).await.unwrap().oldest_ready.is_some());

    for _ in 0..2 {
        let leased = engine.lease(request(&queue)).await.unwrap();
        let bodies: Vec<&str> = leased.deliveries.iter().map(|d| d.body.as_str()).collect();
        assert_eq!(bodies, ["1", "2"]);

        let receipts = leased
            .deliveries
            .into_iter()
            .map(|d| (d.receipt, Settle::Release));

        let outcomes = engine.settle(&queue, receipts.collect()).await.unwrap();
        assert!(matches!(
            outcomes[..],
            [SettleOutcome::Done, SettleOutcome::Done]
        ));
    }

    let leased = engine.lease(request(&queue)).await.unwrap();
    let receipts = leased.deliveries.into_iter().map(|d| (d.receipt, dead()));
    engine.settle(&queue, receipts.collect()).await.unwrap();

    let letters = engine
        .dead_letters()
        .unwrap()
        .list(&queue, None, 10)
        .await
        .unwrap();
    assert_eq!(letters.len(), 2);
}

#[tokio::test]
async fn an_event_for_a_forbidden_queue_fails_alone() {
    let (owner, queue) = engine_and_queue().await;
    let mail = unique("mail");
    let forbidden = unique("forbidden");
    owner.ensure_queue(&mail).await.unwrap();
    owner.ensure_queue(&forbidden).await.unwrap();

    let role = unique("role");
    let setup = ezq_pgmq::setup_sql(&[queue.clone(), mail.clone()], Some(role.as_str())).unwrap();
    let grants: String = setup
        .lines()
        .filter(|line| line.starts_with("grant") && line.contains("pgmq"))
        .map(|line| format!("{line};"))
        .collect();

    run(
        &mut connection().await,
        &format!("CREATE ROLE {role} LOGIN PASSWORD 'x'; {grants}"),
    )
    .await;

    let url = server().await.url();
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let config = PgmqConfig::options(options.username(role.as_str()).password("x"));
    let engine = PgmqEngine::connect(config).await.unwrap();
    publish(&engine, &queue, &["1", "2", "3"]).await;

    let leased = engine.lease(request(&queue)).await.unwrap().deliveries;
    let targets = [&mail, &forbidden, &mail];
    let settlements = leased.into_iter().zip(targets).map(|(delivery, target)| {
        (
            delivery.receipt,
            Settle::Ack {
                outgoing: vec![message(target, "\"out\"")],
            },
        )
    });

    let outcomes = engine.settle(&queue, settlements.collect()).await.unwrap();
    let [
        SettleOutcome::Done,
        SettleOutcome::Failed { receipt, error },
        SettleOutcome::Done,
    ] = &outcomes[..]
    else {
        panic!("{outcomes:?}")
    };
    assert_eq!(error.kind(), ErrorKind::Permission);

    // By itself it is no fault of the database either.
    let again = Settle::Ack {
        outgoing: vec![message(&forbidden, "\"out\"")],
    };

    let outcomes = engine
        .settle(&queue, vec![(receipt.clone(), again)])
        .await
        .unwrap();
    assert!(
        matches!(outcomes[..], [SettleOutcome::Failed { .. }]),
        "{outcomes:?}"
    );

    let outcomes = engine
        .settle(&queue, vec![(receipt.clone(), dead())])
        .await
        .unwrap();
    assert!(
        matches!(outcomes[..], [SettleOutcome::Done]),
        "{outcomes:?}"
    );
}
