//! The changes of a table as typed events: `cargo run --example capture`.
//!
//! It is for tables that other programs write to, in any language, and for code that you do not want to
//! change.
//!
//! What to see: a program that knows nothing of events writes to a table. A handler gets each changed row
//! as it was and as it is, without the column that is left out. It gets nothing of what is rolled back.
//! The example needs no database: without `DATABASE_URL` it starts one.

use std::error::Error;

use ezq::event::Change;
use ezq::prelude::*;
use ezq::sqlx;
use serde::{Deserialize, Serialize};

/// The columns that the handler needs.
#[derive(Debug, Serialize, Deserialize)]
struct User {
    id: i64,
    name: String,
    plan: String,
}

/// One type for all changes of a row. A type for each kind of change works as well.
#[derive(Event, Serialize, Deserialize)]
#[event(
    type = "users.updated",
    alias = "users.created",
    alias = "users.deleted"
)]
struct UserChanged(Change<User>);

#[on_event(queue = "capture_example")]
async fn follow(UserChanged(change): UserChanged) {
    match (change.old, change.new) {
        (None, Some(user)) => println!("    {} is new, on the plan {}", user.name, user.plan),
        (Some(old), Some(new)) => {
            println!(
                "    {} changed {}: {} to {}",
                new.name,
                change.changed.join(", "),
                old.plan,
                new.plan
            );
        }
        (Some(user), None) => println!("    {} is gone", user.name),
        (None, None) => {}
    }
}

/// What another program does to the table.
const WRITER: [&str; 5] = [
    "insert into example_capture.users values (1, 'ada', 'free', 'hash of hers')",
    "update example_capture.users set plan = 'team'",
    "update example_capture.users set password = 'another hash'",
    "begin; delete from example_capture.users; rollback",
    "delete from example_capture.users",
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let ezq = Ezq::connect().await?;
    sqlx::raw_sql(
        "create schema if not exists example_capture;
         create table if not exists example_capture.users (
           id bigint primary key, name text not null, plan text not null, password text);",
    )
    .execute(ezq.pool())
    .await?;

    // With the key, changes of one user are handled in order.
    let captured = ezq
        .capture("example_capture.users")
        .queue("capture_example")
        .named("users")
        .without(["password"])
        .key("id")
        .await?;
    println!(
        "captured: {:?} of {}.{}",
        captured.columns, captured.schema, captured.table
    );

    let mut writer = ezq.pool().acquire().await?;
    for statement in WRITER {
        println!("    $ {statement}");
        sqlx::raw_sql(statement).execute(&mut *writer).await?;
    }

    println!("what the handler sees");
    ezq.publish(&End::default())
        .queue("capture_example")
        .await?;
    let report = ezq.consumer().queue("capture_example").run().await?;
    println!("{report}");

    ezq.captures().remove("example_capture.users").await?;
    sqlx::raw_sql("drop schema example_capture cascade")
        .execute(&mut *writer)
        .await?;
    Ok(())
}
