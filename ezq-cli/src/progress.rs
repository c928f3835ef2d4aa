//! Progress bars, on stderr, for people who look at it.

use std::fmt;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::output::Output;

/// How far something is: a bar, or a counter where the total is not known. It draws nothing if stderr is
/// no terminal, with `--quiet`, and with `--json`.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(crate) fn new(output: Output, total: Option<u64>, what: &'static str) -> Self {
        // Hidden by itself where stderr is no terminal.
        let target = match output.has_progress() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let form = match total {
            Some(_) => "{msg} [{bar:30}] {human_pos} of {human_len}, {rate}, {eta} left",
            None => "{msg} {spinner} {human_pos}, {rate}",
        };
        // A template that cannot be read falls back to the bar of the library.
        let style = ProgressStyle::with_template(form)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ")
            .with_key("rate", |state: &ProgressState, to: &mut dyn fmt::Write| {
                // It is drawn into a string, which cannot fail.
                let _ = write!(to, "{:.0} a second", state.per_sec());
            });
        let bar = ProgressBar::with_draw_target(total, target).with_style(style);
        bar.set_message(what);
        Self { bar }
    }

    /// Whether somebody sees it.
    pub(crate) fn is_drawn(&self) -> bool {
        !self.bar.is_hidden()
    }

    pub(crate) fn at(&self, position: u64) {
        self.bar.set_position(position);
    }
}

/// What follows begins on a line of its own.
impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
