//! docs/cli.md shows what the program prints: the blocks `console` are run in their order, on one
//! database.
//!
//! A line that begins with `$ ` is a command; what follows is what it prints to both streams. Any time
//! and any id of an event fits another, and `…` stands for any text within a line.

use std::process::Command;

use ezq::testing::TestDatabase;

use crate::program::{bury, command, publish, publisher, redacted};

const PAGE: &str = include_str!("../../../docs/cli.md");

#[ezq::test]
async fn the_page_shows_what_the_program_prints(database: TestDatabase) {
    bury(
        &database,
        "orders",
        &[
            ("order.paid", "no such account"),
            ("order.sent", "no such address"),
        ],
    )
    .await;
    let app = publisher(&database).await;
    publish(&app, "orders", "order.paid", r#"{"order": 7}"#).await;

    let mut count = 0;
    for block in PAGE.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        for one in block.split("$ ").skip(1) {
            let (line, expected) = one.split_once('\n').unwrap();
            let printed = redacted(&print(line, &database.url()));
            let fits = fits(&printed, &redacted(expected));
            assert!(fits, "$ {line}\n{printed}");
            count += 1;
        }
    }
    assert!(count > 5, "only {count} commands");
}

/// The runbooks need the situation that they are for. Their commands are at least understood: the program
/// gets as far as the database, which is not there.
#[test]
fn the_commands_of_the_runbooks_are_understood() {
    let page = include_str!("../../../docs/runbooks.md");
    let blocks = page.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap().lines());

    let mut count = 0;
    for line in lines {
        let printed = print(line, "postgres://nobody@127.0.0.1:1/none");
        assert!(printed.contains("no connection to"), "$ {line}\n{printed}");
        count += 1;
    }
    assert!(count > 10, "only {count} commands");
}

/// What a command line prints, in the shell that the reader has.
fn print(line: &str, url: &str) -> String {
    let program = command(&[]).get_program().to_owned();
    let folder = std::path::Path::new(&program).parent().unwrap();
    let ran = Command::new("sh")
        .args(["-c", &format!("{line} 2>&1")])
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", folder.display()))
        .env("USER", "ada")
        .env("HOSTNAME", "box")
        .env("EZQ_DATABASE_URL", url)
        .output()
        .unwrap();
    String::from_utf8(ran.stdout).unwrap()
}

/// Whether lines are those that are expected.
fn fits(printed: &str, expected: &str) -> bool {
    let printed: Vec<&str> = printed.trim_end().lines().collect();
    let expected: Vec<&str> = expected.trim_end().lines().collect();
    let mut lines = printed.iter().zip(&expected);
    printed.len() == expected.len() && lines.all(|(printed, expected)| line_fits(printed, expected))
}

/// Whether a line is the expected one, in which `…` stands for any text.
fn line_fits(printed: &str, expected: &str) -> bool {
    let Some((first, last)) = expected.split_once('…') else {
        return printed == expected;
    };
    let Some(rest) = printed.strip_prefix(first) else {
        return false;
    };
    // From the shortest text on: a later `…` may need what a longer one would take.
    let mut starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    starts.any(|at| line_fits(&rest[at..], last))
}

#[test]
fn a_line_fits_only_with_all_its_parts() {
    assert!(line_fits("a 5s b", "a …s b"));
    assert!(line_fits("a [1] [2]", "a …[2]"));
    for (printed, expected) in [("a b", "a"), ("a 5s bc", "a …s b"), ("b", "a …")] {
        assert!(!line_fits(printed, expected), "{printed}: {expected}");
    }
}
