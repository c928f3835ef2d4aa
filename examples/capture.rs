//! Changes of a table as typed events: `cargo run --example capture`.
//!
//! What to see: a program that knows nothing of events writes to a table, and each row that it
//! changes comes to a handler, before and after, without the column that is left out. What it rolls
//! back comes to nobody. It needs no database: without one it starts its own.

use std::error::Error;

use ezq::prelude::*;
use ezq::{Change, sqlx};
use serde::{Deserialize, Serialize};

/// A row, as far as the handler needs it.
#[derive(Debug, Serialize, Deserialize)]
struct User {
    id: i64,
    name: String,
    plan: String,
}

/// One type for all that may become of a row; a type for each does as well.
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

/// Any program that writes to the table, in any language.
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
    let users = ezq
        .capture("example_capture.users")
        .queue("capture_example");
    // The key orders what becomes of one user.
    let captured = users.named("users").without(["password"]).key("id").await?;
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
