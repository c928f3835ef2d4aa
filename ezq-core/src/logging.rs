//! Warnings and errors: they go to `tracing`, and to stderr if the program has no subscriber.
//!
//! Without that, a program that sets up no logging would see nothing of a handler that fails. Python's
//! `logging` prints warnings in the same case. All of ezq logs warnings and errors by the two macros
//! here, which take the same arguments as those of `tracing`; clippy refuses the originals.

use std::fmt::{Arguments, Debug};
use std::io::Write;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

pub use tracing;
use tracing::Level;
use tracing::dispatcher::has_been_set;

pub(crate) use crate::{__error as error, __warn as warn};

/// Printed once, under the first line.
const HINT: &str = "ezq prints warnings here because the program set up neither `tracing` nor \
                    `log`: set up either, or set `EZQ_STDERR=false`, to end this";

/// Whether `EZQ_STDERR` allows printing to stderr. Read once: `is_unheard` is asked at each warning.
static ALLOWED: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os("EZQ_STDERR").is_none_or(|text| text != "false"));

/// Whether the program is a test. The harness captures what `eprint!` prints, and nothing else.
static IS_TEST: AtomicBool = AtomicBool::new(false);

/// Whether the hint was printed.
static HINTED: AtomicBool = AtomicBool::new(false);

/// Logs a warning; takes what [`tracing::warn!`] takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __warn {
    ($($what:tt)*) => { $crate::__log!(WARN, $($what)*) };
}

/// Logs an error; takes what [`tracing::error!`] takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __error {
    ($($what:tt)*) => { $crate::__log!(ERROR, $($what)*) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $($what:tt)*) => {{
        $crate::logging::tracing::event!($crate::logging::tracing::Level::$level, $($what)*);
        if $crate::logging::is_unheard() {
            #[allow(unused_mut)]
            let mut fields = ::std::string::String::new();
            let level = $crate::logging::tracing::Level::$level;
            $crate::__print!(level, fields, $($what)*);
        }
    }};
}

/// Collects the fields one by one, then prints them after the message.
#[doc(hidden)]
#[macro_export]
macro_rules! __print {
    ($level:ident, $fields:ident, $message:literal $($arguments:tt)*) => {
        $crate::logging::print($level, ::std::format_args!($message $($arguments)*), &$fields)
    };
    ($level:ident, $fields:ident, $name:ident = % $value:expr, $($rest:tt)*) => {
        $crate::logging::add(&mut $fields, stringify!($name), &::std::format_args!("{}", $value));
        $crate::__print!($level, $fields, $($rest)*)
    };
    ($level:ident, $fields:ident, $name:ident = ? $value:expr, $($rest:tt)*) => {
        $crate::logging::add(&mut $fields, stringify!($name), &$value);
        $crate::__print!($level, $fields, $($rest)*)
    };
    ($level:ident, $fields:ident, $name:ident = $value:expr, $($rest:tt)*) => {
        $crate::__print!($level, $fields, $name = ? $value, $($rest)*)
    };
    ($level:ident, $fields:ident, % $name:ident, $($rest:tt)*) => {
        $crate::__print!($level, $fields, $name = % $name, $($rest)*)
    };
    ($level:ident, $fields:ident, ? $name:ident, $($rest:tt)*) => {
        $crate::__print!($level, $fields, $name = ? $name, $($rest)*)
    };
    ($level:ident, $fields:ident, $name:ident, $($rest:tt)*) => {
        $crate::__print!($level, $fields, $name = ? $name, $($rest)*)
    };
}

/// Whether nothing in the program receives log events, and stderr is allowed.
///
/// `tracing` passes its events to `log` as long as no subscriber was ever set, so a `log` logger
/// receives them too.
#[must_use]
pub fn is_unheard() -> bool {
    !has_been_set() && ::log::max_level() == ::log::LevelFilter::Off && *ALLOWED
}

/// Adds a field to those that are printed after the message.
pub fn add(fields: &mut String, name: &str, value: &dyn Debug) {
    let text = format!("{value:?}");
    // `tracing` leaves out a field that is `None`, and shows one that is `Some` without the wrapper.
    if text == "None" {
        return;
    }

    let inner = text
        .strip_prefix("Some(")
        .and_then(|rest| rest.strip_suffix(')'));
    fields.push_str(&format!(" {name}={}", inner.unwrap_or(&text)));
}

/// Prints one line to stderr; the first time with a hint on how to turn it off.
pub fn print(level: Level, message: Arguments<'_>, fields: &str) {
    let mut text = format!("{level} ezq: {message}{fields}\n");
    // Relaxed: nothing else depends on the flag, only that one thread sees it unset.
    if !HINTED.swap(true, Ordering::Relaxed) {
        text.push_str(&format!("     {HINT}\n"));
    }

    if IS_TEST.load(Ordering::Relaxed) {
        eprint!("{text}");
    } else {
        // Not `eprint!`: it panics if stderr is a pipe whose reader is gone.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

/// Prints by `eprint!` from now on, so that the test harness captures it.
pub(crate) fn in_a_test() {
    IS_TEST.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_as_tracing_tells_them() {
        let mut fields = String::new();
        add(&mut fields, "queue", &format_args!("{}", "orders"));
        add(&mut fields, "error", &"it \"broke\"");
        add(&mut fields, "handler", &Some("book"));
        add(&mut fields, "event_id", &None::<&str>);
        add(&mut fields, "count", &3);
        assert_eq!(
            fields,
            r#" queue=orders error="it \"broke\"" handler="book" count=3"#
        );
    }
}
