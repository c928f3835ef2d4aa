//! Every act of an operator is told once, with who and how many; where it cannot be, nothing is done.

use std::time::Duration;

use ezq_core::admin::{Cancel, CancelOutcome, DeadLetterFilter, EventRef};
use ezq_core::engine::{AuditAction, Registration};
use ezq_core::message::MessageId;
use ezq_core::{ErrorKind, Result};
use ezq_pgmq::{DropOutcome, DropQueue, PgmqConfig};

use super::*;

const HOURLY: &str = "it's hourly";

/// Stores a schedule that no code has.
async fn schedule(engine: &PgmqEngine) {
    let store = engine.schedules().unwrap();
    store.prepare().await.unwrap();
    let next = chrono::DateTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let hourly = Registration::new(HOURLY, "shop", "every 1h", next);
    assert!(store.register(hourly, None).await.unwrap());
}

/// The newest entry of all.
async fn newest(app: &App) -> AuditEntry {
    app.audit().list().limit(1).await.unwrap().entries.remove(0)
}

#[tokio::test]
async fn each_act_is_told_once_with_who_and_how_many() {
    let Stage {
        url, queue, own, ..
    } = Stage::new(10).await;
    drop(own);
    let engine = engine_at(&url).await;
    let app = application_of(engine.clone());
    let ids = publish(&engine, &queue, &["1", "2", "3", "4"]).await;
    let letters = app.dead_letters(&queue).unwrap();
    let events = app.events(&queue).unwrap();
    let reason = "it's a <test> – 100%";

    let cancelled = events
        .cancel(&ids[0], Cancel::Discard)
        .by("A")
        .reason(reason);
    assert_eq!(cancelled.await.unwrap(), CancelOutcome::Cancelled);
    assert!(app.fail(&queue, &ids[1], reason).by("B").await.unwrap());
    let one = letters.discard(&MessageId::Number(1)).by("C");
    assert_eq!(one.reason(reason).await.unwrap().len(), 1);
    let two = vec![MessageId::Number(2), MessageId::Number(3)];
    assert_eq!(
        letters
            .redrive(two)
            .by("D")
            .reason(reason)
            .await
            .unwrap()
            .len(),
        2
    );
    let paid = DeadLetterFilter::all().event_type("order.paid");
    assert_eq!(
        letters
            .redrive(paid)
            .by("E")
            .reason(reason)
            .await
            .unwrap()
            .len(),
        7
    );
    let purged = app.purge(&queue).by("F").reason(reason).await.unwrap();
    assert_eq!(purged, 2 + 9);
    let dropped = engine.drop_queue(&queue, DropQueue::WithEvents);
    let dropped = dropped.by("G").reason(reason).await.unwrap();
    assert!(matches!(dropped, DropOutcome::Dropped(_)));

    let entries = told(&app, &queue).await;
    let seen: Vec<_> = entries
        .iter()
        .map(|one| (one.action, one.signature.by.as_str(), one.count))
        .collect();
    let expected = [
        (AuditAction::Discard, "A", Some(1)),
        (AuditAction::Fail, "B", Some(1)),
        (AuditAction::Discard, "C", Some(1)),
        (AuditAction::Redrive, "D", Some(2)),
        (AuditAction::Redrive, "E", Some(7)),
        (AuditAction::Purge, "F", Some(11)),
        (AuditAction::DropQueue, "G", None),
    ];
    assert_eq!(seen, expected);
    let reasons = entries.iter().map(|one| one.signature.reason.as_deref());
    assert!(reasons.into_iter().all(|one| one == Some(reason)));
    let event = |place: usize| entries[place].event.as_ref().map(EventRef::id);
    assert_eq!([event(0), event(1)], [Some(&ids[0]), Some(&ids[1])]);
    assert_eq!(entries[2].event, Some(EventRef::Dead(MessageId::Number(1))));
    let paid = EventFilter::all().event_type("order.paid");
    assert_eq!(entries[4].selection, Some((EventState::Dead, paid)));
}

#[tokio::test]
async fn a_schedule_is_paused_and_resumed_by_somebody() {
    let Stage { url, app, .. } = Stage::new(0).await;
    schedule(&engine_at(&url).await).await;
    let schedules = app.schedules().unwrap();
    for (action, change) in [
        (AuditAction::Pause, schedules.pause(HOURLY)),
        (AuditAction::Resume, schedules.resume(HOURLY)),
    ] {
        change.by("H").await.unwrap();
        let entry = newest(&app).await;
        assert_eq!((entry.action, entry.queue), (action, None));
        assert_eq!(entry.schedule.as_deref(), Some(HOURLY));
    }
}

#[tokio::test]
async fn what_was_done_to_nothing_is_not_told() {
    let Stage { app, queue, .. } = Stage::new(0).await;
    let nothing = MessageId::Number(7);
    let events = app.events(&queue).unwrap();
    let cancelled = events.cancel(&nothing, Cancel::Dead).await.unwrap();
    assert_eq!(cancelled, CancelOutcome::NotFound);
    assert!(!app.fail(&queue, &nothing, "lost").await.unwrap());
    assert_eq!(app.purge(&queue).await.unwrap(), 0);
    let letters = app.dead_letters(&queue).unwrap();
    assert!(letters.redrive(&nothing).await.unwrap().is_empty());
    assert!(
        letters
            .discard(DeadLetterFilter::all())
            .await
            .unwrap()
            .is_empty()
    );
    let missing = app.schedules().unwrap().pause("no such").await;
    assert!(missing.is_err());
    let all = app.audit().list().await.unwrap();
    assert!(all.entries.is_empty(), "{all:?}");
}

#[tokio::test]
async fn a_role_that_may_not_write_the_trail_is_told_what_to_run_and_changes_nothing() {
    let mut stage = Stage::new(3).await;
    let queue = stage.queue.clone();
    let owner = engine_at(&stage.url).await;
    let admin = application_of(owner.clone());
    let ids = publish(&owner, &queue, &["1"]).await;
    // They make the tables.
    schedule(&owner).await;
    admin.schedules().unwrap().pause(HOURLY).await.unwrap();
    admin.queues().pause(&queue).await.unwrap();
    let events = admin.events(&queue).unwrap();
    let missing = MessageId::Number(99);
    events.cancel(&missing, Cancel::Dead).await.unwrap();
    let before = admin.audit().list().await.unwrap().entries.len();
    let role = unique("role");
    let create = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pgmq, ezq TO {role};
         GRANT ALL ON ALL TABLES IN SCHEMA pgmq, ezq TO {role};
         REVOKE INSERT ON ezq.audit FROM {role}"
    );
    run(&mut stage.own, &create).await;
    let url = stage.url.replacen("postgres@", &format!("{role}@"), 1);
    let config = PgmqConfig::url(&url).unwrap().manage_schema(false);
    let engine = PgmqEngine::connect(config).await.unwrap();
    let app = application_of(engine);

    let letters = app.dead_letters(&queue).unwrap();
    let events = app.events(&queue).unwrap();
    let schedules = app.schedules().unwrap();
    let letter = MessageId::Number(1);
    let refused: [(&str, Result<()>); 8] = [
        (
            "cancel",
            events.cancel(&ids[0], Cancel::Dead).await.map(drop),
        ),
        ("fail", app.fail(&queue, &ids[0], "x").await.map(drop)),
        ("redrive", letters.redrive(&letter).await.map(drop)),
        (
            "discard",
            letters.discard(DeadLetterFilter::all()).await.map(drop),
        ),
        ("purge", app.purge(&queue).await.map(drop)),
        ("resume", app.queues().resume(&queue).await.map(drop)),
        ("schedule", schedules.resume(HOURLY).await),
        ("retry", events.discard(&ids[0]).await.map(drop)),
    ];
    for (act, outcome) in refused {
        let error = outcome.expect_err(act);
        assert_eq!(
            error.kind(),
            ezq_core::ErrorKind::SchemaMissing,
            "{act} {error:#?}"
        );
        let grant = "grant select, insert, update, delete on ezq.audit to";
        assert!(error.to_string().contains(grant), "{act}: {error}");
    }

    assert_eq!(dead(&mut stage.own, &queue).await, 3);
    assert_eq!(stored_numbers(&mut stage.own, &queue).await.0, 1);
    let kept = "SELECT (SELECT count(*) FROM ezq.cancellations)
                + (SELECT count(*) FROM ezq.controls) + (SELECT count(*) FROM ezq.schedules
                   WHERE paused_at IS NOT NULL)";
    assert_eq!(scalar::<i64>(&mut stage.own, kept).await, 2, "two pauses");
    let after = admin.audit().list().await.unwrap().entries.len();
    assert_eq!(after, before);
}

/// An older ezq began it, and its trail lacks what a newer one writes.
#[tokio::test]
async fn an_operation_that_an_older_ezq_began_is_ended_by_a_newer_one() {
    let mut stage = Stage::new(1).await;
    let events = stage.app.events(&stage.queue).unwrap();
    let id = events
        .all(EventState::Dead)
        .redrive()
        .start()
        .await
        .unwrap()
        .id;
    run(
        &mut stage.own,
        "ALTER TABLE ezq.audit DROP COLUMN schedule, DROP COLUMN application, DROP COLUMN subject,
           ALTER COLUMN queue SET NOT NULL;
         DROP INDEX ezq.audit_by, ezq.audit_action, ezq.audit_at;
         DELETE FROM ezq.migrations WHERE version >= 16",
    )
    .await;

    // Without leave to change the schema, the error says what to run, and nothing is done.
    let config = PgmqConfig::url(&stage.url).unwrap().manage_schema(false);
    let passive = application_of(PgmqEngine::connect(config).await.unwrap());
    for failed in [
        passive.operations().step(&id).await.unwrap_err(),
        passive.operations().stop(&id).await.unwrap_err(),
    ] {
        assert_eq!(failed.kind(), ErrorKind::SchemaMissing);
        let text = failed.to_string();
        assert!(text.contains("audit of schedules"), "{text}");
    }

    let newer = application(&stage.url).await;
    let ended = newer.operations().resume(&id).await.unwrap();
    assert_eq!((ended.done, ended.is_running()), (1, false));
    let newest = &newer.audit().list().await.unwrap().entries[0];
    assert_eq!(newest.action, AuditAction::EndOperation);
}
