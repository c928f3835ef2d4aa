//! The macros of [ezq](https://docs.rs/ezq): [`derive@Event`], [`derive@EventSet`],
//! [`macro@on_event`] and [`macro@on_schedule`].
//!
//! Use them through `ezq`, which re-exports them beside what their expansions name. The expansions
//! name items of `ezq::__private` and nothing else of ezq. The macros see tokens, not types: whether a
//! type fits is left to rustc, which reports it at the user's own tokens.
//!
//! Every macro works in the same stages: it parses its input, validates it and expands it. After a
//! mistake it expands to something that raises no second error.

mod attributes;
mod duration;
mod errors;
mod event;
mod event_set;
mod on_event;
mod queue_name;
mod suggest;
mod test;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Makes a serde type an event: something that can be published and handled.
///
/// It works on structs and enums without generic parameters. The type must also derive
/// `Serialize` and `Deserialize`.
///
/// # The attribute `#[event(...)]`
///
/// | key | meaning | default |
/// |---|---|---|
/// | `type = "order.paid"` | The event's name on the wire. Not empty, no white space around it. | the Rust name |
/// | `version = 2` | The version of its fields, at least 1. | 1 |
/// | `queue = "orders"` | The queue to which it is published unless the publisher names another: 1 to 47 letters, digits and `_ - . : / @`, without `--`. | the publisher's queue |
/// | `key = "customer_id"` | The field that holds its ordering key. Events of one key in one queue are handled one after another. `a.b` is a field of a field, `0` a tuple's first field. The field implements `Display`, or is an `Option` of a type that does. With `None`, there or on the way, the event has no key. An empty key is refused when the event is published. | no key |
/// | `codec = "raw"` | The name of the codec that writes it. | the codec of its queue |
/// | `alias = "OrderPaid"` | Another name under which it is read. May be given several times. | none |
/// | `from = OrderPaidV1` | The event type of the version just before. This type implements `From` for it. That one may come from an older one itself. | older versions are read as this one, with serde's defaults for missing fields |
/// | `crate = path` | Where ezq is found, if not at `::ezq`. | `::ezq` |
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    event::derive(&parse_macro_input!(input as DeriveInput)).into()
}

/// Makes an enum with one event in each variant a type that one handler can take.
///
/// A handler of the enum is called for each of the enum's events, by exact type. If the enum has several
/// versions of one type, an event becomes the variant of its own version, or else of the next newer one.
///
/// The enum itself is not an event and needs no serde derives. Of `#[event(...)]` it takes
/// `crate = path` only, as [`derive@Event`] explains it.
#[proc_macro_derive(EventSet, attributes(event))]
pub fn derive_event_set(input: TokenStream) -> TokenStream {
    event_set::derive(&parse_macro_input!(input as DeriveInput)).into()
}

/// Makes an async function a handler, which every consumer of the program finds at start.
///
/// The first parameter is the event: a type with `#[derive(Event)]`, an enum with
/// `#[derive(EventSet)]`, `AnyEvent`, or a `Batch` of one of these. Each further parameter is an extractor:
/// `Context`, `State<T>`, `Extension<T>`, `Publisher`, `Tx`, or a type that implements `Extract`. The function returns nothing, events to publish, or a
/// `Result` of these. An error is retried, unless it is a `HandlerError` that says otherwise.
///
/// # Arguments
///
/// | key | meaning | default |
/// |---|---|---|
/// | `name = "receipts"` | The handler's durable name. Progress is kept under it, so a pinned name survives a rename or a move of the function. | `module::path::function` |
/// | `order = 1` | Its place among the handlers of one event, lowest first. | concurrent |
/// | `queue = "mail"` | A queue of its own. The handler takes events from this queue only, and only handlers with this queue take its events. A consumer of the queue runs it. Its events must be published there: by `#[event(queue = "mail")]`, by a route, or by their publisher. | any queue that is no handler's own |
/// | `pattern = "order.*"` | For a handler of `AnyEvent`: it takes only types that match. May be given several times. `*` is one segment between dots, `#` any number of them. | every type |
/// | `batch(size = 100, wait = "20ms")` | For a handler of `Batch<E>`: the largest number of events in a batch, and the time that a batch that is not full waits for more. | 100 and `"20ms"` |
/// | `concurrency = 4` | The largest number of its runs at once in the application, at least 1. | no limit |
/// | `timeout = "1m"` | The time that one attempt may take. `"none"` sets no limit. | the application's (`Config::handler_timeout`, 30 s) |
/// | `retry(max_attempts = 8)` | The number of attempts, including the first one, at least 1. | the application's (`Config::retry`, 5) |
/// | `retry(backoff = "linear")` | How waits between attempts grow: `"exponential"`, `"linear"`, `"constant"`, or, without quotes, a function of your own, `fn(&FailedAttempt<'_>) -> Duration`, or an expression that makes one (`Backoff::custom`). | `"exponential"` if one of the keys below is given, else the application's |
/// | `retry(initial = "2s")` | The first wait. | `"1s"` |
/// | `retry(max = "10m")` | The longest wait; not with `"constant"` or a function. | `"5m"`, or `initial` if that is longer |
/// | `retry(multiplier = 3)` | By how much each wait is longer than the one before, at least 1; only with `"exponential"`. | 2 |
/// | `retry(jitter = "none")` | What chance makes of a wait; only with `"exponential"`. `"full"`: anything from zero up to the whole wait. `"none"`: nothing. | `"full"` |
/// | `layer = timing` | A `Layer`, by the name of its function or as an expression: code that runs around the handler, inside the layers of its module and of the application. May be given several times, the outermost first. | none |
/// | `crate = path` | Where ezq is found, if not at `::ezq`. | `::ezq` |
///
/// A duration is a whole number and a unit: `ms`, `s`, `m`, `h` or `d`.
///
/// # Explicit registration
///
/// The macro adds a hidden type of the function's name and visibility. With it,
/// `builder.handler::<send_receipt>()` registers the handler where discovery is turned off. Importing the
/// function imports both. A module of the same name cannot stand beside the function.
#[proc_macro_attribute]
pub fn on_event(arguments: TokenStream, item: TokenStream) -> TokenStream {
    on_event::expand(arguments.into(), item.into()).into()
}

/// Writes the type of a handler. In an `impl`, where no type can stand, rustc's error names this macro;
/// see `on_event/expand/marker.rs`.
#[doc(hidden)]
#[proc_macro]
pub fn a_handler_is_a_free_function_move_it_out_of_the_impl(input: TokenStream) -> TokenStream {
    on_event::handler_type(input.into()).into()
}

/// Writes its arguments after an item. If rustc drops the item, it drops them as well; see
/// `on_event/expand/marker.rs`.
#[doc(hidden)]
#[proc_macro_attribute]
pub fn beside(given: TokenStream, item: TokenStream) -> TokenStream {
    item.into_iter().chain(given).collect()
}

/// Makes an async function run at the times of a schedule: once for each tick, however many
/// processes have it.
///
/// A tick is an event in a queue, and the function is its handler. The event is leased, retried and
/// dead-lettered like any other, and the function returns what a handler returns. Its parameters are
/// extractors. The first may be the `Tick`, which tells when it was due.
///
/// # Arguments
///
/// | key | meaning | default |
/// |---|---|---|
/// | `"0 9 * * MON"` | First and without a key: a cron expression. It is checked while compiling. | |
/// | `every = "30s"` | An interval of at least `1s`, in place of a cron expression. | |
/// | `tz = "Europe/Paris"` | The time zone of a cron expression; checked when the application is built. | UTC |
/// | `missed = "skip"` | What to do about ticks during which no process ran. `"skip"` leaves them out, `"fire_once"` makes up for all of them with one firing. | `"fire_once"` |
/// | `name = "reports"` | The durable name of schedule and handler, unique in the whole database. If another application has a schedule of this name for another queue, the second one's consumers do not start. | `module::path::function` |
/// | `queue = "reports"` | A queue of its own. | the application's |
/// | `timeout`, `retry`, `concurrency`, `layer`, `crate` | As in [`macro@on_event`]. | |
///
/// A duration is a whole number and a unit: `ms`, `s`, `m`, `h` or `d`.
#[proc_macro_attribute]
pub fn on_schedule(arguments: TokenStream, item: TokenStream) -> TokenStream {
    on_event::expand_scheduled(arguments.into(), item.into()).into()
}

/// Makes an async function a test with a database of its own.
///
/// The database is a copy of a template that has PGMQ. If the test succeeds, it is dropped; if the test
/// fails, it is kept, and its URL is printed. The server is the one that `EZQ_DATABASE_URL` or
/// `DATABASE_URL` names; its role needs the right to create databases. Where neither is set, the feature
/// `embedded` starts a development Postgres, which all tests of a process share.
///
/// Each parameter is one of these, all on the test's own database:
///
/// | parameter | what it is |
/// |---|---|
/// | `TestDatabase` | The database. Its `app` builds an application with the handlers that a test names. |
/// | `TestEzq` | An application with the handlers found at link time, and with assertions. |
/// | `Ezq` | The same without assertions, as the program itself would connect. |
/// | `EzqBuilder` | The builder of such an application. |
/// | `PgPool` | A pool, for tests without an application. |
///
/// The function returns nothing or a `Result`. It runs on a runtime of its own with one thread. `#[ignore]`
/// and `#[should_panic]` work as in any test. With `crate = path` ezq is found elsewhere than at `::ezq`.
#[proc_macro_attribute]
pub fn test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    test::expand(arguments.into(), item.into()).into()
}
