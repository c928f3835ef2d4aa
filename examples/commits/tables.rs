//! The tables that the handlers fill, and the summary of them that is printed.

use std::fmt::Display;

use ezq::sqlx::{self, PgPool};

use crate::Result;

/// Creates the tables anew.
///
/// No table holds a sum. An event may be handled more than once, so each handler writes rows that are
/// keyed by the commit, and a second run finds them there. For the same reason no two handlers ever wait
/// for one row, in whatever order they run.
pub(crate) async fn create(pool: &PgPool) -> Result<()> {
    let sql = "
        drop schema if exists commits_example cascade;
        create schema commits_example;
        create table commits_example.author (
            commit_hash text primary key, name text not null);
        create table commits_example.hour (
            commit_hash text primary key, hour smallint);
        create table commits_example.file (
            commit_hash text, n bigint, path text not null, primary key (commit_hash, n));";
    sqlx::raw_sql(sql).execute(pool).await?;
    Ok(())
}

/// The number of commits that every handler has seen.
pub(crate) async fn handled(pool: &PgPool) -> Result<u64> {
    let sql =
        "select count(*) from commits_example.author join commits_example.hour using (commit_hash)";
    let count: i64 = sqlx::query_scalar(sql).fetch_one(pool).await?;
    Ok(u64::try_from(count)?)
}

pub(crate) async fn print(pool: &PgPool) -> Result<()> {
    let authors: Vec<(i64, String)> = sqlx::query_as(
        "select count(*), name from commits_example.author group by name order by 1 desc, 2 limit 10",
    )
    .fetch_all(pool)
    .await?;
    table("commits", "author", authors);

    let files: Vec<(i64, String)> = sqlx::query_as(
        "select count(*), path from commits_example.file group by path order by 1 desc, 2 limit 10",
    )
    .fetch_all(pool)
    .await?;
    table("commits", "file", files);

    let hours: Vec<(i64, i16)> = sqlx::query_as(
        "select count(commit_hash), n::smallint
         from generate_series(0, 23) n left join commits_example.hour on hour = n
         group by n order by n",
    )
    .fetch_all(pool)
    .await?;
    let most = hours
        .iter()
        .map(|(count, _)| *count)
        .max()
        .unwrap_or(0)
        .max(1);

    println!("\n   hour  commits");
    for (count, hour) in hours {
        let line = format!("  {hour:>2}:00  {count:>7}  {}", bar(count, most));
        println!("{}", line.trim_end());
    }
    Ok(())
}

fn table(count: &str, name: &str, rows: Vec<(i64, String)>) {
    println!("\n  {count:>7}  {name}");
    for (count, name) in rows {
        println!("  {count:>7}  {}", printable(&name));
    }
}

/// A bar in eighths of a character, so that a small count is visible beside a large one.
fn bar(count: i64, most: i64) -> String {
    const WIDTH: i64 = 48;
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (count * WIDTH * 8)
        .div_euclid(most)
        .max(i64::from(count > 0));
    let full = "█".repeat(usize::try_from(eighths / 8).unwrap_or(0));
    full + usize::try_from(eighths % 8)
        .ok()
        .and_then(|rest| PARTS.get(rest))
        .unwrap_or(&"")
}

/// A name without control characters. Names in a history may hold anything, including sequences that a
/// terminal would obey.
fn printable(name: &str) -> impl Display {
    name.replace(|c: char| c.is_control(), "\u{fffd}")
}
