//! Schedules that are refused when the application is built.

use ezq_core::ErrorKind;
use ezq_core::app::AppBuilder;
use ezq_core::engine::Capabilities;
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;
use ezq_core::schedule::Schedule;

use super::{Sweep, builder, sweep};
use crate::faulty::Faulty;

#[test]
fn what_cannot_be_kept_is_refused_when_the_application_is_built() {
    let refused = |change: fn(AppBuilder) -> AppBuilder| {
        let error = change(builder()).build(MemoryEngine::new()).unwrap_err();
        (error.kind(), error.to_string())
    };

    let (kind, text) = refused(|app| {
        app.schedule(
            "a",
            Schedule::cron("0 9 * * MON").tz("Europe/Pari"),
            &sweep(),
        )
    });
    assert_eq!(kind, ErrorKind::Configuration);
    assert!(
        text.contains("`a`") && text.contains("`Europe/Pari`"),
        "{text}"
    );

    let (kind, text) = refused(|app| app.schedule("b", Schedule::cron("0 9 * *"), &sweep()));
    assert_eq!(kind, ErrorKind::Configuration);
    assert!(
        text.contains("`b`") && text.contains("0 9 * * MON"),
        "{text}"
    );

    let (kind, _) = refused(|app| {
        let once = app.schedule("c", Schedule::every("1m"), &sweep());
        once.schedule("c", Schedule::every("2m"), &sweep())
    });
    assert_eq!(kind, ErrorKind::Configuration);
    for name in ["", " ", "a\nb"] {
        let app = builder().schedule(name, Schedule::every("1m"), &sweep());
        let kind = app.build(MemoryEngine::new()).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Configuration, "{name:?}");
    }

    let (kind, _) = refused(|app| app.schedule("d", Schedule::every("1m").queue("No!"), &sweep()));
    assert_eq!(kind, ErrorKind::InvalidQueueName);

    let (kind, text) = refused(|app| {
        let queue = QueueName::new("elsewhere").unwrap();
        let app = app
            .named_engine("second", MemoryEngine::new())
            .queue_engine(&queue, "second");
        app.schedule("e", Schedule::every("1m").queue("elsewhere"), &sweep())
    });
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(text.contains("`elsewhere`"), "{text}");

    let (kind, _) = refused(|app| {
        let app = app.configure(|config| config.message_limit = 1000);
        app.schedule(
            "f",
            Schedule::every("1m"),
            &Sweep {
                what: "x".repeat(1000),
            },
        )
    });
    assert_eq!(kind, ErrorKind::TooLarge);
}

#[test]
fn an_engine_without_schedules_is_refused_when_the_application_is_built() {
    let capabilities = Some(Capabilities::new("plain"));
    let engine = || Faulty {
        capabilities: capabilities.clone(),
        ..Faulty::default()
    };
    let app = builder().schedule("sweep", Schedule::every("1m"), &sweep());
    let error = app.build(engine()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("`plain`"), "{error}");

    let app = builder().build(engine()).unwrap();
    assert_eq!(app.schedules().unwrap_err().kind(), ErrorKind::Unsupported);
}
