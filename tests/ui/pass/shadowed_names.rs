//! The expansions name everything in full: what a crate calls its own things does not matter.
#![forbid(unsafe_code)]
#![deny(warnings)]
#![allow(dead_code, unused_macros)]

mod alloc {}
mod core {}
mod std {}

struct Box;
struct Err;
struct None;
struct Ok;
struct Option;
struct Result;
struct Some;
struct String;
struct Vec;

trait From {}
trait Future {}
trait Into {}
trait Iterator {}
trait Send {}
trait Sync {}
trait ToString {}

macro_rules! concat {
    () => {};
}
macro_rules! module_path {
    () => {};
}
macro_rules! vec {
    () => {};
}
macro_rules! assert {
    () => {};
}
macro_rules! panic {
    () => {};
}
macro_rules! unreachable {
    () => {};
}
macro_rules! matches {
    () => {};
}

trait PlainField {
    fn kind(&self) {}
    fn present(&self) {}
    fn map(&self) {}
    fn choose(&self) {}
    fn returning(&self) {}
}
impl<T> PlainField for T {}

#[derive(ezq::Event, serde::Serialize, serde::Deserialize)]
#[event(key = id)]
struct Created {
    id: u8,
}

#[derive(ezq::Event, serde::Serialize, serde::Deserialize)]
#[event(version = 2, from = Created, key = "inner.id")]
struct Newer {
    inner: Created,
}

impl ::core::convert::From<Created> for Newer {
    fn from(inner: Created) -> Self {
        Self { inner }
    }
}

#[derive(ezq::EventSet)]
enum Account {
    Ok(Created),
}

#[ezq::on_event(timeout = "3s", retry(initial = "3s"))]
async fn created(Created { id }: Created, _: ezq::Context) -> Created {
    Created { id }
}

#[ezq::on_event(timeout = "none")]
async fn account(event: Account) -> ::std::result::Result<(), ::std::io::Error> {
    let Account::Ok(_) = event;
    ::std::result::Result::Ok(())
}

#[ezq::on_schedule("@daily", tz = "Europe/Paris", missed = "skip")]
async fn daily(_tick: ezq::Tick, _: ezq::Context) -> Created {
    Created { id: 0 }
}

#[ezq::on_schedule(every = "30s")]
async fn often() {}

fn main() {}
