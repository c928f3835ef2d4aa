//! The folder `tests/cases`: what each noun prints to a terminal's reader, command by command, each file on
//! a database of its own. `TRYCMD=overwrite` writes what is printed into the files; times and ids are
//! `[..]` there.

use std::path::Path;
use std::time::Duration;

use ezq::Event;
use ezq::schedule::Schedule;
use ezq::testing::TestDatabase;
use serde::{Deserialize, Serialize};

use crate::program::{bury, create, publish, publisher};

#[derive(Event, Serialize, Deserialize)]
#[event(type = "report.due", queue = "reports")]
struct ReportDue {}

/// Runs one file on a database that has a schedule, and a queue with an event and two dead letters.
async fn run(database: &TestDatabase, file: &str) {
    let letters = [
        ("order.paid", "no such account"),
        ("order.sent", "the shop's 5% <off>"),
    ];
    bury(database, "orders", &letters).await;
    let app = publisher(database).await;
    create(&app, "mail").await;
    publish(&app, "orders", "order.paid", r#"{"order": 7}"#).await;

    let hourly = Schedule::every(Duration::from_secs(3_600));
    let shop = database.builder().without_discovered_handlers().app("shop");
    let shop = shop.schedule("report", hourly, &ReportDue {});
    let shop = shop.connect().await.unwrap();
    // It is stored when it is first needed.
    shop.schedules().unwrap().pause("report").await.unwrap();

    let program = Path::new(env!("CARGO_BIN_EXE_ezq")).to_owned();
    trycmd::TestCases::new()
        .register_bin("ezq", trycmd::schema::Bin::Path(program))
        .env("EZQ_DATABASE_URL", database.url())
        .env("USER", "ada")
        .env("HOSTNAME", "box")
        .case(Path::new("tests/cases").join(file))
        .run();
}

macro_rules! cases {
    ($($noun:ident),+ $(,)?) => {
        $(
            #[ezq::test]
            async fn $noun(database: TestDatabase) {
                run(&database, concat!(stringify!($noun), ".trycmd")).await;
            }
        )+

        /// A file that no test runs would prove nothing.
        #[test]
        fn every_file_is_run() {
            let known = [$(concat!(stringify!($noun), ".trycmd")),+];
            for file in std::fs::read_dir("tests/cases").unwrap() {
                let name = file.unwrap().file_name().into_string().unwrap();
                assert!(known.contains(&name.as_str()), "{name}");
            }
        }
    };
}

cases![
    audit,
    capture,
    check,
    consumer,
    dlq,
    doctor,
    errors,
    event,
    generated,
    migrate,
    operation,
    queue,
    replay,
    schedule,
    source,
    subscription,
    usage,
];
