//! Reads the command line.

use crate::case::Case;
use crate::cases;
use crate::options::Options;

pub(crate) const HELP: &str = "\
Usage: ezq-bench [case ...] [options]

Without a case it runs all of them but those whose name begins with `grow`.

  --list              Print the cases and what they measure
  --json              One JSON line per case, in place of a table
  --database-url URL  The database. Defaults to a development Postgres of its own, started with
                      durable settings
  --pairs N           How often ezq and its reference run in turn, or a case without a reference is
                      repeated. Defaults to 7, unless the case has a number of its own
  --events N          Events of one run. Defaults to the case's own number
  --help              Print this";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Wish {
    Help,
    List,
    Run(Arguments),
}

/// The cases to run, and how.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) cases: Vec<&'static Case>,
    pub(crate) json: bool,
    pub(crate) database_url: Option<String>,
    pub(crate) options: Options,
}

impl Arguments {
    pub(crate) fn read(words: impl IntoIterator<Item = String>) -> Result<Wish, String> {
        let mut arguments = Self {
            cases: Vec::new(),
            json: false,
            database_url: None,
            options: Options::default(),
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            // Taken by the options that need one, at the place where they stand.
            let mut value = || {
                words
                    .next()
                    .ok_or_else(|| format!("`{word}` needs a value"))
            };
            match word.as_str() {
                "--help" | "-h" => return Ok(Wish::Help),
                "--list" => return Ok(Wish::List),
                "--json" => arguments.json = true,
                "--database-url" => arguments.database_url = Some(value()?),
                "--pairs" => arguments.options.pairs = Some(number(&word, &value()?)?),
                "--events" => arguments.options.events = Some(number(&word, &value()?)?),
                name => match cases::ALL
                    .iter()
                    .chain(cases::GROWTH)
                    .find(|case| case.name == name)
                {
                    Some(case) => arguments.cases.push(case),
                    None if name.starts_with('-') => return Err(format!("no option `{name}`")),
                    None => return Err(format!("no case `{name}`: see `--list`")),
                },
            }
        }

        if arguments.cases.is_empty() {
            arguments.cases = cases::ALL.iter().collect();
        }
        Ok(Wish::Run(arguments))
    }
}

fn number(option: &str, text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("`{option} {text}`: use a whole number from 1 on")),
        Ok(number) => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Wish, String> {
        Arguments::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn reads_cases_and_options_in_any_order() {
        let Ok(Wish::Run(arguments)) = read("--pairs 9 consume --json --events 1000") else {
            panic!("not understood");
        };
        assert_eq!(arguments.cases.len(), 1);
        assert!(arguments.json);
        assert_eq!(arguments.options.pairs(), 9);
        assert_eq!(arguments.options.events, Some(1000));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for line in [
            "--quick",
            "consumes",
            "--pairs",
            "--pairs 0",
            "--events many",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
