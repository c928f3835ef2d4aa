//! What commands print: tables or JSON to stdout, and notes to stderr.
//!
//! With `--json`, every answer is one object, or one object on each line for a list. Without it, a list
//! is a table: with lines on a terminal, and without in a pipe, so that `awk` and `cut` can read it.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::process::ExitCode;

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::failure::Failure;
use crate::global::{Color, Global};
use crate::text::visible;

/// One line of a list.
pub(crate) trait Row: Serialize {
    /// The heads of the columns.
    const COLUMNS: &'static [&'static str];

    /// The texts of the columns.
    fn cells(&self) -> Vec<String>;
}

/// Where and how answers are printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    is_json: bool,
    is_quiet: bool,
    is_on_terminal: bool,
    has_coloured_data: bool,
    has_coloured_notes: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        let is_on_terminal = io::stdout().is_terminal();
        let has_colour = |is_terminal: bool| match global.color {
            Color::Always => true,
            Color::Never => false,
            // As <https://no-color.org> has it: an empty variable does not count.
            Color::Auto => {
                is_terminal && std::env::var_os("NO_COLOR").is_none_or(|text| text.is_empty())
            }
        };
        Self {
            is_json: global.json,
            is_quiet: global.quiet,
            is_on_terminal,
            has_coloured_data: has_colour(is_on_terminal),
            has_coloured_notes: has_colour(io::stderr().is_terminal()),
        }
    }

    /// Whether somebody may look at how far something is.
    pub(crate) fn has_progress(self) -> bool {
        !self.is_json && !self.is_quiet
    }

    /// Prints a list. An empty one is nothing on stdout, and a note.
    pub(crate) fn list<R: Row>(self, rows: &[R], if_empty: &str) -> Result<(), Failure> {
        if self.is_json {
            return self.lines(rows);
        }
        if rows.is_empty() {
            self.note(if_empty);
            return Ok(());
        }

        let mut table = self.table();
        table.set_header(R::COLUMNS);
        for row in rows {
            table.add_row(row.cells().iter().map(|cell| visible(cell).into_owned()));
        }
        self.print(&table, true)
    }

    /// Prints one object on each line.
    pub(crate) fn lines<R: Serialize>(self, rows: &[R]) -> Result<(), Failure> {
        let mut stdout = BufWriter::new(io::stdout().lock());
        for row in rows {
            write_json(&mut stdout, row)?;
        }
        Ok(stdout.flush()?)
    }

    /// Prints one thing: in a table, a name and a value on each line.
    pub(crate) fn show<R: Serialize>(
        self,
        value: &R,
        fields: &[(&str, String)],
    ) -> Result<(), Failure> {
        if self.is_json {
            return self.lines(&[value]);
        }

        let mut table = self.table();
        for (name, text) in fields {
            table.add_row([*name, &*visible(text)]);
        }
        self.print(&table, false)
    }

    /// Says what was done: as an object to stdout with `--json`, else as a note.
    pub(crate) fn done<R: Serialize>(self, value: &R, text: impl Display) -> Result<(), Failure> {
        if self.is_json {
            return self.lines(&[value]);
        }
        self.note(text);
        Ok(())
    }

    /// Prints a text as data.
    pub(crate) fn data(self, text: &impl Display) -> Result<(), Failure> {
        if self.is_json {
            return Ok(());
        }
        let mut stdout = BufWriter::new(io::stdout().lock());
        for line in text.to_string().lines() {
            writeln!(stdout, "{}", visible(line))?;
        }
        Ok(stdout.flush()?)
    }

    /// Prints a script as it is: whoever runs it needs every character.
    pub(crate) fn script(self, text: &str) -> Result<(), Failure> {
        let mut stdout = BufWriter::new(io::stdout().lock());
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }

    /// Says something beside the data, unless `--quiet`.
    pub(crate) fn note(self, text: impl Display) {
        if !self.is_quiet {
            // A note that nobody reads is no failure.
            let _ = writeln!(io::stderr().lock(), "{}", visible(&text.to_string()));
        }
    }

    /// Says why a command failed, and gives the exit code.
    pub(crate) fn fail(self, failure: &Failure) -> ExitCode {
        if let Some(text) = failure.text() {
            let label = match self.has_coloured_notes {
                true => "\u{1b}[1;31merror:\u{1b}[0m",
                false => "error:",
            };
            // Some errors hold a script that mends them, so lines stay lines.
            let lines: Vec<_> = text.lines().map(visible).collect();
            // Nobody is left to be told that stderr is closed.
            let _ = writeln!(io::stderr().lock(), "{label} {}", lines.join("\n"));
        }
        ExitCode::from(failure.exit_code())
    }

    fn table(self) -> Table {
        let mut table = Table::new();
        // Lines between columns would take what a narrow terminal lacks.
        table.load_style(match self.is_on_terminal {
            true => presets::UTF8_HORIZONTAL_ONLY,
            false => presets::NOTHING,
        });
        table
    }

    fn print(self, table: &Table, has_head: bool) -> Result<(), Failure> {
        let mut stdout = BufWriter::new(io::stdout().lock());
        // With lines, the first one is above the head.
        let head = usize::from(self.is_on_terminal);
        for (index, line) in table.lines().enumerate() {
            let line = line.trim_end();
            // Without lines, columns begin at the edge.
            let line = match self.is_on_terminal {
                true => line,
                false => line.strip_prefix(' ').unwrap_or(line),
            };
            match has_head && index == head && self.has_coloured_data {
                true => writeln!(stdout, "\u{1b}[1m{line}\u{1b}[0m")?,
                false => writeln!(stdout, "{line}")?,
            }
        }
        Ok(stdout.flush()?)
    }
}

/// Prints to stderr what may repeat a wrong command line: without what a terminal would obey.
pub(crate) fn complain(text: &str) {
    let lines: Vec<_> = text.lines().map(visible).collect();
    // Nobody is left to be told that stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{}", lines.join("\n"));
}

fn write_json(to: &mut impl Write, value: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer(&mut *to, value).map_err(|error| match error.io_error_kind() {
        Some(kind) => Failure::from(io::Error::from(kind)),
        None => Failure::error(format!("the answer cannot be written as JSON: {error}")),
    })?;
    Ok(to.write_all(b"\n")?)
}
