//! What connecting says when it fails.

use std::time::{Duration, Instant};

use ezq_core::engine::Engine as _;
use ezq_core::error::error_chain;
use ezq_core::{Error, ErrorKind};
use ezq_pgmq::embedded::EmbeddedPostgres;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::{Connection as _, PgConnection};

use crate::support::*;

pub(super) async fn refused(config: PgmqConfig) -> Error {
    let began = Instant::now();
    let error = PgmqEngine::connect(config).await.unwrap_err();
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "{:?}",
        began.elapsed()
    );

    let everything = format!("{error:?} {}", error_chain(&error));
    assert!(!everything.contains("hunter2"), "{everything}");
    error
}

#[tokio::test]
async fn a_wrong_password() {
    // A server of its own, which asks for passwords.
    let server = EmbeddedPostgres::builder().start().await.unwrap();
    let mut own = PgConnection::connect(&server.url()).await.unwrap();
    run(&mut own, "CREATE ROLE app LOGIN PASSWORD 'right'").await;

    let hba: String = scalar(&mut own, "SHOW hba_file").await;
    run(
        &mut own,
        &format!("COPY (SELECT 'local all all scram-sha-256') TO '{hba}'"),
    )
    .await;
    run(&mut own, "SELECT pg_reload_conf()").await;
    drop(own);

    let url = |password: &str| {
        let with = format!("app:{password}@");
        PgmqConfig::url(&server.url().replace("postgres@", &with)).unwrap()
    };

    // The reload takes a moment; until then every password is accepted.
    let mut error = None;
    for _ in 0..100 {
        match PgmqEngine::connect(url("hunter2").manage_schema(false)).await {
            Err(refused) if refused.kind() == ErrorKind::Permission => {
                error = Some(refused);
                break;
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }

    let error = error.unwrap();
    let text = format!("{error:?} {}", error_chain(&error));
    assert!(
        text.contains("`app`") && text.contains("password") && !text.contains("hunter2"),
        "{text}"
    );

    let error = refused(url("right").manage_schema(false)).await;
    assert_eq!(error.kind(), ErrorKind::PgmqMissing);
}

#[tokio::test]
async fn a_port_where_nothing_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);

    let url = format!("postgres://app:hunter2@127.0.0.1:{port}/app");
    let error = refused(PgmqConfig::url(&url).unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(
        error.to_string().contains("check that the server runs"),
        "{error}"
    );
}

#[tokio::test]
async fn a_host_that_never_answers() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("postgres://app:hunter2@127.0.0.1:{port}/app");
    let config = PgmqConfig::url(&url).unwrap();
    let error = refused(config.connect_timeout(Duration::from_millis(300))).await;
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(
        error.to_string().contains(&format!("127.0.0.1:{port}")),
        "{error}"
    );
}

#[tokio::test]
async fn a_database_that_does_not_exist() {
    let url = server().await.database_url("nowhere");
    let error = refused(PgmqConfig::url(&url).unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::DatabaseMissing);
    assert!(error.to_string().contains("createdb nowhere"), "{error}");
}

#[tokio::test]
async fn a_role_that_does_not_exist() {
    let url = server()
        .await
        .url()
        .replace("postgres@", "nobody_here:hunter2@");
    let error = refused(PgmqConfig::url(&url).unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Permission);
}

#[tokio::test]
async fn no_right_to_install() {
    let url = fresh_database().await;
    let role = unique("role");
    run(
        &mut connection().await,
        &format!("CREATE ROLE {role} LOGIN"),
    )
    .await;

    let url = url.replace("postgres@", &format!("{role}:hunter2@"));
    let error = refused(PgmqConfig::url(&url).unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::PgmqMissing);
    assert!(
        error.to_string().contains("CREATE EXTENSION pgmq"),
        "{error}"
    );
}

#[tokio::test]
async fn a_schema_of_a_stranger_is_refused_with_its_owner() {
    for schema in ["pgmq", "ezq"] {
        let url = fresh_database().await;
        let stranger = unique("stranger");
        let app = unique("app");
        let mut own = PgConnection::connect(&url).await.unwrap();
        let sql = format!(
            "CREATE ROLE {stranger}; CREATE ROLE {app} LOGIN; CREATE SCHEMA {schema} AUTHORIZATION {stranger}"
        );
        run(&mut own, &sql).await;

        let config = || PgmqConfig::url(&url).unwrap();
        // A superuser counts as a member of every role, and would lend its rights all the more.
        let error = refused(config()).await;
        assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
        assert!(
            error
                .to_string()
                .contains(&format!("the role `{stranger}`")),
            "{error}"
        );

        // A role that was granted the membership is trusted.
        let database: String = scalar(&mut own, "SELECT current_database()").await;
        let grant =
            format!("GRANT {stranger} TO {app}; GRANT CREATE ON DATABASE {database} TO {app}");
        run(&mut own, &grant).await;

        let member = url.replace("postgres@", &format!("{app}@"));
        let connected = PgmqEngine::connect(PgmqConfig::url(&member).unwrap()).await;
        let kind = connected.map_err(|error| error.kind()).err();
        assert_ne!(kind, Some(ErrorKind::Permission));
    }
}

/// A role that may create in the schema, as capturing needs, could take names before ezq.
#[tokio::test]
async fn what_a_stranger_made_in_the_schema_is_refused_with_its_owner() {
    for (what, made, as_it_is) in [
        (
            "function `ezq.recipients`",
            "FUNCTION ezq.recipients(text)",
            "RETURNS SETOF text LANGUAGE sql AS 'select null::text'",
        ),
        ("table `ezq.dedupe`", "TABLE ezq.dedupe", "(queue text)"),
    ] {
        let url = fresh_database().await;
        engine_at(&url).await.close().await;

        let mut own = PgConnection::connect(&url).await.unwrap();
        let stranger = unique("stranger");
        let sql = format!(
            "CREATE ROLE {stranger}; CREATE SCHEMA ezq; GRANT CREATE, USAGE ON SCHEMA ezq TO {stranger};
             SET ROLE {stranger}; CREATE {made} {as_it_is};
             CREATE FUNCTION ezq.capture_x() RETURNS int LANGUAGE sql AS 'select 1'; RESET ROLE"
        );
        run(&mut own, &sql).await;

        let config = || PgmqConfig::url(&url).unwrap();
        let error = PgmqEngine::connect(config()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permission);

        let text = error.to_string();
        assert!(
            text.contains(what) && text.contains(stranger.as_str()),
            "{text}"
        );

        // Functions of captures belong to the table's owner.
        run(&mut own, &format!("DROP {made}")).await;
        PgmqEngine::connect(config()).await.unwrap();
    }
}

#[tokio::test]
async fn a_schema_that_a_stranger_takes_later_is_refused_as_well() {
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    let queue = unique("q");
    let stranger = unique("stranger");
    engine.ensure_queue(&queue).await.unwrap();

    let mut own = PgConnection::connect(&url).await.unwrap();
    let sql = format!("CREATE ROLE {stranger}; CREATE SCHEMA ezq AUTHORIZATION {stranger}");
    run(&mut own, &sql).await;

    let error = engine
        .publish(vec![keyed(&queue, "1", "key")])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    assert!(error.to_string().contains(stranger.as_str()), "{error}");
}
