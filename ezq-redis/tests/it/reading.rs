//! What the source reads, and what it says of streams that are missing, trimmed or no streams.

use ezq::ErrorKind;
use ezq::broker::{Arrival, Inbound, Source, SourcePosition};
use ezq_redis::RedisSource;
use redis::Connection;

use crate::server::Server;

fn add(connection: &mut Connection, stream: &str, fields: &[(&str, &str)]) -> String {
    let mut add = redis::cmd("XADD");
    add.arg(stream).arg("*");
    for (name, value) in fields {
        add.arg(*name).arg(*value);
    }
    add.query(connection).unwrap()
}

/// The messages of one call.
async fn next(source: &mut RedisSource) -> Vec<Inbound> {
    match source.next(100).await.unwrap() {
        Arrival::Messages(messages) => messages,
        other => panic!("{other:?}"),
    }
}

/// Begins to read one stream behind a position.
async fn begin(source: &mut RedisSource, stream: &str, after: Option<SourcePosition>) {
    let arrival = source.next(100).await.unwrap();
    assert!(matches!(arrival, Arrival::Assigned(streams) if streams == [stream]));
    assert_eq!(source.seek(stream, after).await.unwrap(), after);
}

#[tokio::test]
async fn entries_come_in_their_order_and_from_any_position_on() {
    let test = "reading::entries_come_in_their_order_and_from_any_position_on";
    let Some(server) = Server::start(test, &[]) else {
        return;
    };
    let connection = &mut server.connection();
    let event = r#"{"specversion":"1.0","id":"1","source":"s","type":"paid"}"#;
    let first = add(
        connection,
        "orders",
        &[("cloud_event", event), ("who", "ada")],
    );
    add(connection, "orders", &[("total", "7"), ("who", "ada")]);

    let source = RedisSource::connect(&server.url(), ["orders"])
        .await
        .unwrap();
    let mut source = source.key_field("who");
    begin(&mut source, "orders", None).await;
    let read = next(&mut source).await;
    assert_eq!(read.len(), 2);
    let id = read[0].position();
    assert_eq!(format!("{}-{}", id.major(), id.minor()), first);
    assert_eq!(read[0].to_envelope("x", None).unwrap().event_type(), "paid");
    assert_eq!(read[0].ordering_key(), Some("ada"));
    assert!(read[0].stored_time().is_some());
    let plain = read[1].to_envelope("x", Some("order")).unwrap();
    assert_eq!(plain.data(), Some(r#"{"total":"7","who":"ada"}"#));

    assert!(next(&mut source).await.is_empty());
    source.seek("orders", Some(id)).await.unwrap();
    assert_eq!(next(&mut source).await.len(), 1);
}

#[tokio::test]
async fn a_stream_that_is_missing_is_waited_for_and_one_may_begin_at_its_end() {
    let test = "reading::a_stream_that_is_missing_is_waited_for_and_one_may_begin_at_its_end";
    let Some(server) = Server::start(test, &[]) else {
        return;
    };
    let mut early = RedisSource::connect(&server.url(), ["later"])
        .await
        .unwrap();
    begin(&mut early, "later", None).await;
    assert!(next(&mut early).await.is_empty());

    let connection = &mut server.connection();
    add(connection, "later", &[("n", "1")]);
    assert_eq!(next(&mut early).await.len(), 1);

    let late = RedisSource::connect_lazily(&server.url(), ["later"]).unwrap();
    let mut late = late.from_the_end();
    late.next(1).await.unwrap();
    // The answer is stored, so a second start does not leave out what came meanwhile.
    assert!(late.seek("later", None).await.unwrap().is_some());
    assert!(next(&mut late).await.is_empty());
    add(connection, "later", &[("n", "2")]);
    assert_eq!(next(&mut late).await.len(), 1);
}

#[tokio::test]
async fn a_name_of_another_type_and_a_stream_made_anew_are_named() {
    let test = "reading::a_name_of_another_type_and_a_stream_made_anew_are_named";
    let Some(server) = Server::start(test, &[]) else {
        return;
    };
    let connection = &mut server.connection();
    redis::cmd("SET")
        .arg(&["taken", "text"])
        .query::<()>(connection)
        .unwrap();
    let refused = RedisSource::connect(&server.url(), ["taken"]).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("`taken`"), "{error}");

    redis::cmd("XADD")
        .arg(&["anew", "5-0", "n", "1"])
        .query::<()>(connection)
        .unwrap();
    let mut source = RedisSource::connect(&server.url(), ["anew"]).await.unwrap();
    let error = source.seek("anew", Some(SourcePosition::from(6))).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Configuration);
}

#[tokio::test]
async fn what_is_stored_is_trimmed_where_that_is_asked_for() {
    let test = "reading::what_is_stored_is_trimmed_where_that_is_asked_for";
    let Some(server) = Server::start(test, &[]) else {
        return;
    };
    let connection = &mut server.connection();
    for n in 0..5 {
        add(connection, "orders", &[("n", &n.to_string())]);
    }
    let source = RedisSource::connect(&server.url(), ["orders"])
        .await
        .unwrap();
    let mut source = source.trim_stored();
    begin(&mut source, "orders", None).await;
    let read = next(&mut source).await;
    let stored = ("orders".to_owned(), read[3].position());
    source.commit(&[stored]).await.unwrap();
    let left: usize = redis::cmd("XLEN").arg("orders").query(connection).unwrap();
    // The last one that is stored, and the one behind it.
    assert_eq!(left, 2);
}

#[tokio::test]
async fn a_server_that_is_away_is_a_connection_error_and_then_read_again() {
    let test = "reading::a_server_that_is_away_is_a_connection_error_and_then_read_again";
    let Some(mut server) = Server::start(test, &[]) else {
        return;
    };
    let mut source = RedisSource::connect(&server.url(), ["orders"])
        .await
        .unwrap();
    begin(&mut source, "orders", None).await;
    server.kill();
    let error = source.next(10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
    server.restart();
    add(&mut server.connection(), "orders", &[("n", "1")]);
    assert_eq!(next(&mut source).await.len(), 1);
}
