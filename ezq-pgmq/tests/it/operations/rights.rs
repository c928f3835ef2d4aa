//! Roles that lack a right: they are told which, and change nothing.

use ezq_core::admin::EventRef;
use ezq_core::message::MessageId;
use ezq_core::{Error, ErrorKind};
use ezq_pgmq::PgmqConfig;

use super::*;

/// A stage with three dead letters, and a role that may connect and read.
struct Rights {
    stage: Stage,
    role: QueueName,
}

impl Rights {
    async fn new() -> Self {
        let mut stage = Stage::new(3).await;
        // It makes the tables.
        let first = EventRef::Dead(MessageId::Number(1));
        let events = stage.app.events(&stage.queue).unwrap();
        assert!(events.discard(first).await.unwrap());
        let role = unique("role");
        let create = format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pgmq, ezq TO {role};
             GRANT SELECT ON ALL TABLES IN SCHEMA pgmq, ezq TO {role}"
        );
        run(&mut stage.own, &create).await;
        Self { stage, role }
    }

    /// An application of the role.
    async fn operator(&self) -> App {
        let user = format!("{}@", self.role);
        let url = self.stage.url.replacen("postgres@", &user, 1);
        let config = PgmqConfig::url(&url).unwrap().manage_schema(false);
        application_of(PgmqEngine::connect(config).await.unwrap())
    }

    async fn grant(&mut self, right: &str) {
        let grant = format!("GRANT {right} TO {}", self.role);
        run(&mut self.stage.own, &grant).await;
    }

    /// Nothing was done, and nothing is told.
    async fn check_untouched(&mut self) {
        let Stage {
            app, queue, own, ..
        } = &mut self.stage;
        assert_eq!(dead(own, queue).await, 2);
        assert_eq!(stored_numbers(own, queue).await, (0, 0));
        assert_eq!(told(app, queue).await.len(), 1);
        let operations = app.operations().list(10).await.unwrap();
        assert!(operations.is_empty(), "{operations:?}");
    }
}

/// Asks for a redrive by id, and for one of all. Both are refused with the same error.
async fn refused(app: &App, queue: &QueueName) -> Error {
    let events = app.events(queue).unwrap();
    let one = MessageId::Number(2);
    let by_id = events.redrive(&one).await.unwrap_err();
    let bulk = events.all(EventState::Dead).redrive();
    let of_all = bulk.start().await.unwrap_err();
    assert_eq!(by_id.kind(), of_all.kind(), "{by_id:#?} {of_all:#?}");
    assert_eq!(by_id.to_string(), of_all.to_string());
    of_all
}

#[tokio::test]
async fn a_role_that_may_only_read_looks_and_is_told_what_to_grant() {
    let mut rights = Rights::new().await;
    let app = rights.operator().await;
    let queue = rights.stage.queue.clone();
    let events = app.events(&queue).unwrap();
    let bulk = events.all(EventState::Dead).redrive();
    assert_eq!(bulk.preview().await.unwrap().count, 2);
    assert!(app.operations().list(10).await.unwrap().is_empty());
    assert_eq!(told(&app, &queue).await.len(), 1);

    let refused = refused(&app, &queue).await;
    assert_eq!(refused.kind(), ErrorKind::Permission, "{refused:#?}");
    let letters = format!("grant select, insert, update, delete on pgmq.q_{queue}_dlq to");
    assert!(refused.to_string().contains(&letters), "{refused}");
    rights.check_untouched().await;
}

#[tokio::test]
async fn a_role_that_may_not_write_the_trail_does_nothing() {
    let mut rights = Rights::new().await;
    rights
        .grant("SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgmq")
        .await;
    let app = rights.operator().await;
    let refused = refused(&app, &rights.stage.queue).await;
    assert_eq!(refused.kind(), ErrorKind::SchemaMissing, "{refused:#?}");
    let text = refused.to_string();
    assert!(
        text.contains("ezq.audit") && text.contains("grant"),
        "{text}"
    );
    rights.check_untouched().await;

    // With what it names, it does.
    rights
        .grant("INSERT, UPDATE, DELETE ON ezq.operations, ezq.audit")
        .await;
    let events = app.events(&rights.stage.queue).unwrap();
    let ended = events.all(EventState::Dead).redrive().await.unwrap();
    assert_eq!(counts(&ended), (2, 0, 0));
}

/// An operation that can take no step is not started.
#[tokio::test]
async fn a_role_that_may_not_change_the_queue_starts_no_operation() {
    let mut rights = Rights::new().await;
    rights
        .grant("INSERT, UPDATE, DELETE ON ezq.operations, ezq.audit")
        .await;
    let app = rights.operator().await;
    let first = refused(&app, &rights.stage.queue).await;
    assert_eq!(first.kind(), ErrorKind::Permission, "{first:#?}");
    rights.check_untouched().await;

    // It may remove dead letters, and store none in their queue.
    let letters = format!("UPDATE, DELETE ON pgmq.q_{}_dlq", rights.stage.queue);
    rights.grant(&letters).await;
    let second = refused(&app, &rights.stage.queue).await;
    assert_eq!(second.kind(), ErrorKind::Permission, "{second:#?}");
    let needed = format!("delete on pgmq.q_{} to", rights.stage.queue);
    assert!(second.to_string().contains(&needed), "{second}");
    rights.check_untouched().await;
    let events = app.events(&rights.stage.queue).unwrap();
    let ended = events.all(EventState::Dead).discard().await.unwrap();
    assert_eq!(counts(&ended), (2, 0, 0));
}
