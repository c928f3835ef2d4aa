//! What the source gives, and where it goes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Config;
use ezq::ErrorKind;
use ezq::broker::{Arrival, Inbound, Sink as _, Source as _, SourcePosition};
use ezq_nats::{NatsSink, NatsSource};

use crate::sending::message;
use crate::server::{BOTH, Server, Version};

/// Makes a stream, and stores events with the numbers of a range in it.
async fn store(server: &Server, numbers: std::ops::Range<u32>) {
    let sink = NatsSink::connect(&server.url()).await.unwrap();
    let sink = sink.stream("STEPS", &["steps.>"]).await.unwrap();
    let batch: Vec<_> = numbers.map(|n| message("steps.a", n)).collect();
    sink.send(&batch).await.unwrap();
}

/// An ingest in small: what it has stored, and up to where.
#[derive(Default)]
struct Stored {
    positions: BTreeMap<String, SourcePosition>,
    ids: Vec<String>,
}

impl Stored {
    /// Lets a partition go on where it ended.
    async fn seek(&mut self, source: &mut NatsSource, partition: &str) -> ezq::Result<()> {
        let after = self.positions.get(partition).copied();
        if let Some(begin) = source.seek(partition, after).await? {
            self.positions.insert(partition.to_owned(), begin);
        }
        Ok(())
    }

    /// Reads once.
    async fn read(&mut self, source: &mut NatsSource) -> ezq::Result<usize> {
        match source.next(7).await? {
            Arrival::Assigned(partitions) => {
                for partition in partitions {
                    self.seek(source, &partition).await?;
                }
                Ok(0)
            }
            Arrival::Messages(messages) => {
                messages.iter().for_each(|one| self.store(one));
                Ok(messages.len())
            }
            other => panic!("{other:?}"),
        }
    }

    fn store(&mut self, message: &Inbound) {
        let before = self
            .positions
            .insert(message.partition().to_owned(), message.position());
        assert!(before.is_none_or(|before| before < message.position()));
        let event = message.to_envelope("test", None).unwrap();
        self.ids.push(event.id().to_owned());
    }

    /// Reads until it has so many.
    async fn read_until(&mut self, source: &mut NatsSource, count: usize) {
        let began = Instant::now();
        while self.ids.len() < count {
            let is_late = began.elapsed() > Duration::from_secs(60);
            assert!(!is_late, "{} of {count}", self.ids.len());
            self.read(source).await.unwrap();
        }
    }
}

fn ids(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|n| format!("event-{n}")).collect()
}

#[tokio::test]
async fn a_stream_is_read_in_its_order_and_goes_on_where_it_ended() {
    let test = "reading::a_stream_is_read_in_its_order_and_goes_on_where_it_ended";
    for version in BOTH {
        let Some(server) = Server::start(test, version, "") else {
            return;
        };
        store(&server, 0..20).await;
        let mut stored = Stored::default();
        let mut source = NatsSource::new(&server.url(), "STEPS").unwrap();
        stored.read_until(&mut source, 20).await;
        assert_eq!(stored.ids, ids(0..20));
        assert_eq!(
            stored.read(&mut source).await.unwrap(),
            0,
            "there is no more"
        );
        store(&server, 20..25).await;
        source.close().await;

        // Another process goes on, and gives nothing twice.
        let mut source = NatsSource::new(&server.url(), "STEPS").unwrap();
        stored.read_until(&mut source, 25).await;
        assert_eq!(stored.ids, ids(0..25));
        source.health_check().await.unwrap();
    }
}

#[tokio::test]
async fn what_a_stream_has_is_left_out_only_if_that_is_asked_for() {
    let test = "reading::what_a_stream_has_is_left_out_only_if_that_is_asked_for";
    let Some(server) = Server::start(test, Version::V2_15, "") else {
        return;
    };
    store(&server, 0..5).await;
    let mut stored = Stored::default();
    let source = NatsSource::new(&server.url(), "STEPS").unwrap();
    let mut source = source.subject("steps.>").from_end();
    stored.read(&mut source).await.unwrap();
    store(&server, 5..8).await;
    stored.read_until(&mut source, 3).await;
    assert_eq!(stored.ids, ids(5..8));
}

async fn recreate(context: &Context) {
    context.delete_stream("STEPS").await.unwrap();
    let config = Config {
        name: "STEPS".into(),
        subjects: vec!["steps.>".into()],
        ..Config::default()
    };
    context.create_stream(config).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_purged_goes_on_and_one_that_is_new_is_told_apart() {
    let test = "reading::a_stream_that_is_purged_goes_on_and_one_that_is_new_is_told_apart";
    for version in BOTH {
        let Some(server) = Server::start(test, version, "") else {
            return;
        };
        store(&server, 0..5).await;
        let mut stored = Stored::default();
        let mut source = NatsSource::new(&server.url(), "STEPS").unwrap();
        stored.read_until(&mut source, 5).await;
        let context = server.jetstream().await;
        context
            .get_stream("STEPS")
            .await
            .unwrap()
            .purge()
            .await
            .unwrap();
        store(&server, 5..8).await;
        stored.read_until(&mut source, 8).await;

        // Longer than the old one was, so that its numbers alone say nothing.
        recreate(&context).await;
        store(&server, 8..20).await;
        let old = stored.positions.keys().next().unwrap().clone();
        source.next(7).await.unwrap_err();
        let error = stored.seek(&mut source, &old).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
        assert!(error.to_string().contains("created anew"), "{error}");

        let mut source = NatsSource::new(&server.url(), "STEPS").unwrap();
        stored.read_until(&mut source, 20).await;
        assert_eq!(stored.ids, ids(0..20));
        assert_eq!(stored.positions.len(), 2);
    }
}

#[tokio::test]
async fn a_server_that_is_killed_costs_no_message_and_repeats_none() {
    let test = "reading::a_server_that_is_killed_costs_no_message_and_repeats_none";
    for version in BOTH {
        let Some(mut server) = Server::start(test, version, "") else {
            return;
        };
        store(&server, 0..30).await;
        let mut stored = Stored::default();
        let mut source = NatsSource::new(&server.url(), "STEPS").unwrap();
        stored.read_until(&mut source, 10).await;
        server.kill();
        server.restart();

        let began = Instant::now();
        while stored.ids.len() < 30 {
            assert!(began.elapsed() < Duration::from_secs(60));
            if stored.read(&mut source).await.is_err() {
                let partitions: Vec<_> = stored.positions.keys().cloned().collect();
                for partition in partitions {
                    // The server may not be back yet.
                    let _ = stored.seek(&mut source, &partition).await;
                }
            }
        }
        assert_eq!(stored.ids, ids(0..30));
    }
}

#[tokio::test]
async fn a_stream_that_is_missing_is_named() {
    let test = "reading::a_stream_that_is_missing_is_named";
    let Some(server) = Server::start(test, Version::V2_15, "") else {
        return;
    };
    let mut source = NatsSource::new(&server.url(), "NOWHERE").unwrap();
    let error = source.next(7).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(error.to_string().contains("`NOWHERE`"), "{error}");
    let error = NatsSource::new(&server.url(), "no.name").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
}
