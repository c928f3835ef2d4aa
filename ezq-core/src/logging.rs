//! Warnings and errors: they go to `tracing`, and to stderr where nobody listens to that.
//!
//! A program that sets up no logging would see nothing of a handler that fails. So what is a warning
//! or worse is printed there, as Python's `logging` does in its place. Everything in ezq warns by
//! these two macros, which take what `tracing`'s own take.

use std::fmt::{Arguments, Debug};
use std::io::Write;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

pub use tracing;
use tracing::Level;
use tracing::dispatcher::has_been_set;

pub(crate) use crate::{__error as error, __warn as warn};

/// Said once, under the first line.
const HINT: &str = "ezq prints warnings here because the program set up neither `tracing` nor `log`; \
                    either ends this, and so does `EZQ_STDERR=false`";

/// Whether `EZQ_STDERR` allows it.
static ALLOWED: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os("EZQ_STDERR").is_none_or(|text| text != "false"));

/// Whether the program is a test, whose harness shows what a failed test printed.
static IS_TEST: AtomicBool = AtomicBool::new(false);

static HINTED: AtomicBool = AtomicBool::new(false);

/// A warning, as [`tracing::warn!`] takes it.
#[doc(hidden)]
#[macro_export]
macro_rules! __warn {
    ($($what:tt)*) => { $crate::__log!(WARN, $($what)*) };
}

/// An error, as [`tracing::error!`] takes it.
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

/// Reads the fields one after another, then prints them behind the message.
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

/// Whether the program listens to nothing, and is to see warnings all the same.
///
/// `tracing` hands its events to `log` while no subscriber was ever set, so a logger sees them.
#[must_use]
pub fn is_unheard() -> bool {
    !has_been_set() && ::log::max_level() == ::log::LevelFilter::Off && *ALLOWED
}

/// Adds a field to those that stand behind the message.
pub fn add(fields: &mut String, name: &str, value: &dyn Debug) {
    let text = format!("{value:?}");
    // An absent field is left out, and a present one told without its wrapping, as `tracing` does.
    if text == "None" {
        return;
    }
    let inner = text
        .strip_prefix("Some(")
        .and_then(|rest| rest.strip_suffix(')'));
    fields.push_str(&format!(" {name}={}", inner.unwrap_or(&text)));
}

/// Prints a line.
pub fn print(level: Level, message: Arguments<'_>, fields: &str) {
    let mut text = format!("{level} ezq: {message}{fields}\n");
    if !HINTED.swap(true, Ordering::Relaxed) {
        text.push_str(&format!("     {HINT}\n"));
    }
    if IS_TEST.load(Ordering::Relaxed) {
        eprint!("{text}");
    } else {
        // `eprint!` panics where stderr is a pipe that nobody reads any more.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

/// From now on what is printed goes where the test harness captures it.
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
