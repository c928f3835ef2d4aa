//! What is generated from the list of commands: completions for shells, and the manual page.

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::arguments::Arguments;
use crate::failure::Failure;
use crate::session::Session;

pub(crate) fn completions(session: &Session, shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ezq", &mut script);
    session.output.script(&String::from_utf8_lossy(&script))
}

/// One page for all commands: that of the program, and the options of every command behind it.
pub(crate) fn manual(session: &Session) -> Result<(), Failure> {
    let mut command = Arguments::command();
    command.build();
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;

    let mut page = String::from_utf8_lossy(&page).into_owned();
    page.push_str(".SH COMMANDS IN FULL\n");
    describe(&command, &mut page);
    session.output.script(&page)
}

fn describe(command: &Command, page: &mut String) {
    for verb in command.get_subcommands() {
        describe(verb, page);
    }
    if command.has_subcommands() {
        return;
    }

    // A line that begins with a dot or a quote would be a request to troff.
    let help = command.clone().render_long_help().to_string();
    let help = help
        .replace('\\', "\\e")
        .replace("\n.", "\n\\&.")
        .replace("\n'", "\n\\&'");
    let name = command.get_bin_name().unwrap_or("ezq");
    // Writing to a string cannot fail.
    let _ = write!(page, ".SS {name}\n.nf\n{help}\n.fi\n");
}
