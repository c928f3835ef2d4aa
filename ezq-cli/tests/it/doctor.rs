//! `ezq doctor`.

use std::process::Command;

use ezq::sqlx::{self, AssertSqlSafe, Connection as _, PgConnection};
use ezq::testing::TestDatabase;

use crate::program::{create, ezq, publisher, run};
use crate::skip;

#[ezq::test]
async fn what_is_broken_is_an_error_until_the_printed_sql_has_run(database: TestDatabase) {
    let url = database.url();
    create(&publisher(&database).await, "orders").await;
    let tables = ["doctor", "--check", "tables"];
    ezq(&url, &tables).is(0, "", "all is well: 1 finding\n");

    let mut admin = PgConnection::connect(&url).await.unwrap();
    execute(&mut admin, "drop index pgmq.q_orders_vt_idx").await;
    let expected = "\
error tables: the queue `orders`: the table pgmq.q_orders has no valid index on `vt`: every claim reads all of it
    this mends it:
        create index q_orders_ezq_vt_idx on pgmq.q_orders (vt);
";
    ezq(&url, &tables).is(1, expected, "");

    let json = ezq(&url, &[&tables[..], &["--json"]].concat());
    let found: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(
        (json.code, &found["queue"], &found["severity"]),
        (1, &"orders".into(), &"error".into())
    );
    execute(&mut admin, found["remedy"].as_str().unwrap()).await;
    ezq(&url, &tables).is(0, "", "all is well: 1 finding\n");
}

/// Both run on this machine, so the program sees another time.
#[ezq::test]
async fn clocks_that_differ_are_found(database: TestDatabase) {
    let test = "doctor::clocks_that_differ_are_found";
    let Some(_) = skip::program("faketime", "faketime", test) else {
        return;
    };
    let url = database.url();
    create(&publisher(&database).await, "orders").await;
    let looked = |shift: &str| {
        let program = env!("CARGO_BIN_EXE_ezq");
        let mut faked = Command::new("faketime");
        faked.args([
            "-m", "-f", shift, program, "doctor", "--check", "clock", "--all",
        ]);
        // Waits are measured by the monotonic clock, which stays as it is.
        for name in ["DONT_FAKE_MONOTONIC", "FAKETIME_DONT_FAKE_MONOTONIC"] {
            faked.env(name, "1");
        }
        run(faked.env("EZQ_DATABASE_URL", &url))
    };

    for (shift, said) in [
        ("+0s", "ok clock: the clock of the server is 0."),
        ("+20s", "notice clock: the clock of the server is "),
        ("-2h", "warning clock: the clock of the server is 7"),
    ] {
        let looked = looked(shift);
        assert!(looked.stdout.starts_with(said), "{shift}: {looked:?}");
        assert_eq!(looked.code, 0, "a skew stops nothing: {looked:?}");
    }
    let behind = looked("+20s").stdout;
    assert!(
        behind.contains(" s behind this machine's") && behind.contains("(NTP)"),
        "{behind}"
    );
    assert!(looked("-2h").stdout.contains(" s ahead of this machine's"));
}

#[ezq::test]
async fn every_check_is_shown_on_demand_and_a_notice_is_no_error(database: TestDatabase) {
    let url = database.url();
    create(&publisher(&database).await, "orders").await;
    let all = ezq(&url, &["doctor", "--all"]);
    for check in [
        "ok connection: ",
        "ok listen: ",
        "ok grants: ",
        "notice consumers: ",
    ] {
        assert!(all.stdout.contains(check), "{check}: {all:?}");
    }
    // The development server does not flush.
    assert!(all.stdout.starts_with("error durability: "), "{all:?}");

    let notice = ezq(
        &url,
        &["doctor", "--check", "consumers", "--check", "listen"],
    );
    assert_eq!(notice.code, 0, "{notice:?}");
    assert!(
        notice
            .stdout
            .starts_with("notice consumers: the queue `orders`"),
        "{notice:?}"
    );
    ezq(&url, &["doctor", "--check", "lissen"])
        .fails(2, "there is no check `lissen`: is it `listen`?");
}

#[ezq::test]
async fn a_database_without_pgmq_or_a_server_is_diagnosed(database: TestDatabase) {
    let url = database.url();
    let mut admin = PgConnection::connect(&url).await.unwrap();
    execute(
        &mut admin,
        "drop schema if exists ezq cascade; drop schema pgmq cascade",
    )
    .await;
    let found = ezq(&url, &["doctor", "--check", "pgmq"]);
    assert_eq!(found.code, 1, "{found:?}");
    assert!(
        found
            .stdout
            .starts_with("error pgmq: PGMQ is not installed"),
        "{found:?}"
    );

    let found = ezq(
        "postgres://ada:hunter2@127.0.0.1:1/shop",
        &["doctor", "--check", "pgmq"],
    );
    assert_eq!(found.code, 1, "{found:?}");
    assert!(
        found
            .stdout
            .starts_with("error connection: no connection to"),
        "{found:?}"
    );
    assert!(!found.stdout.contains("hunter2"), "{found:?}");
}

async fn execute(admin: &mut PgConnection, statement: &str) {
    let statement = sqlx::raw_sql(AssertSqlSafe(statement));
    statement.execute(admin).await.unwrap();
}
