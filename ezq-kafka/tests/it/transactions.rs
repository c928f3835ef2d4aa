//! Records of transactions: those of one that was aborted are no events.

use std::time::Duration;

use ezq::engine::Engine as _;
use ezq::message::QueueName;
use ezq::sqlx::query_scalar;
use ezq::testing::TestDatabase;
use ezq_kafka::KafkaSource;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::ingesting::rows;
use crate::processes::until;
use crate::reading::read;
use crate::server::{Program, Server};

const LIMIT: Duration = Duration::from_secs(20);

/// A producer whose records stand in transactions.
fn transactional(brokers: &str) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config.set("transactional.id", "till");
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(LIMIT).unwrap();
    producer
}

/// Begins a transaction, and writes records whose values are numbers.
fn write(producer: &BaseProducer, numbers: std::ops::Range<u32>) {
    producer.begin_transaction().unwrap();
    for number in numbers {
        let value = number.to_string();
        let record: BaseRecord<'_, str, str> = BaseRecord::to("orders").payload(&value);
        let sent = producer.send(record.partition(0));
        sent.map_err(|(error, _)| error).unwrap();
    }
    producer.flush(LIMIT).unwrap();
}

#[ezq::test]
async fn records_of_an_aborted_transaction_are_not_stored(db: TestDatabase) {
    let test = "transactions::records_of_an_aborted_transaction_are_not_stored";
    let Some(server) = Server::start(test, Program::Noida) else {
        return;
    };
    let app = db.app(|app| app.queue("orders")).await.unwrap();
    let queue = QueueName::new("orders").unwrap();
    app.pgmq().ensure_queue(&queue).await.unwrap();
    let producer = transactional(&server.brokers());
    write(&producer, 0..20);
    producer.commit_transaction(LIMIT).unwrap();
    write(&producer, 100..120);
    producer.abort_transaction(LIMIT).unwrap();
    write(&producer, 20..25);
    producer.commit_transaction(LIMIT).unwrap();
    // One that is open holds up what stands behind it.
    write(&producer, 25..30);

    let source = |group: &str, settings: &str| {
        let url = format!("{}?session.timeout.ms=6000{settings}", server.url());
        KafkaSource::new(&url, group, ["orders"]).unwrap()
    };
    let ingest = app
        .ingest(source("shop", ""))
        .into("orders")
        .plain("number");
    let ingest = ingest.spawn();
    until("all that is committed is stored", async || {
        rows(&app).await.0 >= 25
    })
    .await;
    // What must not be stored would come by now.
    tokio::time::sleep(Duration::from_secs(2)).await;
    ingest.stop();
    ingest.await.unwrap();
    let sql = "select (message ->> 'data')::int from pgmq.q_orders order by 1";
    let stored: Vec<i32> = query_scalar(sql).fetch_all(app.pool()).await.unwrap();
    assert_eq!(stored, (0..25).collect::<Vec<i32>>());
    app.assert_no_dead_letters();

    // All of them are in the topic. What follows the open transaction cannot be tested here: once that is
    // committed, this server gives its records only to clients that read from further back.
    let mut careless = source("careless", "&isolation.level=read_uncommitted");
    assert_eq!(read(&mut careless, 50).await.len(), 50);
}
