//! What is asked before something is destroyed: to type the name of what it is.

use std::io::{self, BufRead, IsTerminal as _, Write};

use crate::failure::Failure;
use crate::session::Session;
use crate::text::visible;

/// Asks for the name of what would be destroyed, unless `--yes` was given.
pub(crate) fn confirm(session: &Session, what: &str, name: &str) -> Result<(), Failure> {
    if session.global.yes {
        return Ok(());
    }
    // A pipe that never ends would hang here, and one that ends has confirmed nothing.
    if !io::stdin().is_terminal() {
        let text = format!("{what}: not without confirmation. Repeat the command with `--yes`");
        return Err(Failure::refused(text));
    }
    ask(
        what,
        name,
        &mut io::stdin().lock(),
        &mut io::stderr().lock(),
    )
}

fn ask(
    what: &str,
    name: &str,
    answers: &mut impl BufRead,
    questions: &mut impl Write,
) -> Result<(), Failure> {
    write!(
        questions,
        "{what}. Type `{name}` to go on: ",
        what = visible(what)
    )?;
    questions.flush()?;

    let mut typed = String::new();
    answers
        .read_line(&mut typed)
        .map_err(|error| Failure::error(format!("cannot read the answer: {error}")))?;
    match typed.trim() == name {
        true => Ok(()),
        false => Err(Failure::refused("nothing was done: this is another name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_typed_name_confirms() {
        for (typed, is_confirmed) in [
            ("orders\n", true),
            (" orders \r\n", true),
            ("order\n", false),
            ("y\n", false),
            ("\n", false),
            ("", false),
        ] {
            let mut question = Vec::new();
            let answer = ask("3 events", "orders", &mut typed.as_bytes(), &mut question);
            assert_eq!(answer.is_ok(), is_confirmed, "{typed:?}");
            let question = String::from_utf8_lossy(&question).into_owned();
            assert_eq!(question, "3 events. Type `orders` to go on: ");
        }
    }
}
