//! What a later version may add without a program that compiles today failing to.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Folders that no program can name, and what cargo compiles for tests alone.
const PRIVATE: [&str; 5] = ["delivery", "dispatch", "shared", "private", "tests"];

/// Open types that stay as they are, each with the reason.
const CLOSED: [(&str, &str); 5] = [
    ("State", "a handler takes it apart in its parameters"),
    ("Extension", "a handler takes it apart in its parameters"),
    ("Inbox", "it has no values, only functions"),
    ("Records", "hidden: the test kit's own"),
    ("Recorded", "hidden: the test kit's own"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if PRIVATE.contains(&name.as_str()) || name.ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The name of a type that others can match on or build by its fields, if this line begins one. A
/// private field closes a struct to both.
fn open_type<'a>(lines: &[&'a str], at: usize) -> Option<&'a str> {
    let rest = lines[at].strip_prefix("pub ")?;
    let (kind, rest) = rest.split_once(' ')?;
    let name = rest.split(|c: char| !c.is_alphanumeric()).next()?;
    let body = lines[at + 1..].iter().take_while(|line| **line != "}");
    let mut fields = body.filter_map(|line| field(line)).peekable();

    let is_open = match kind {
        "enum" => true,
        "struct" if rest.ends_with('{') => {
            fields.peek().is_some() && fields.all(|field| field.starts_with("pub "))
        }
        "struct" => rest.contains("(pub "),
        _ => false,
    };
    is_open.then_some(name)
}

/// The field that a line of a struct begins.
fn field(line: &str) -> Option<&str> {
    let field = line.strip_prefix("    ")?;
    let is_other = field.starts_with([' ', '/', '#', ')', '>']);
    (!is_other && field.contains(": ")).then_some(field)
}

/// Whether the attributes above a line say that the type may grow.
fn may_grow(lines: &[&str], at: usize) -> bool {
    let above = lines[..at].iter().rev();
    let mut attributes = above.take_while(|line| !line.is_empty() && **line != "}");
    attributes.any(|line| line.contains("non_exhaustive"))
}

#[test]
fn types_with_open_parts_may_grow() {
    let mut files = Vec::new();
    for folder in ["src", "ezq-core/src", "ezq-pgmq/src", "ezq-conformance/src"] {
        sources(&Path::new(ROOT).join(folder), &mut files);
    }

    let mut seen = 0;
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for at in 0..lines.len() {
            let Some(name) = open_type(&lines, at) else {
                continue;
            };
            seen += 1;
            let is_closed = CLOSED.iter().any(|(closed, _)| *closed == name);
            assert!(
                is_closed || may_grow(&lines, at),
                "`{name}` in {} needs `#[non_exhaustive]`",
                file.display()
            );
        }
    }
    assert!(seen > 60, "only {seen} types were looked at");
}

#[test]
fn the_crates_that_speak_to_each_other_are_of_one_version() {
    let manifest = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    for name in ["ezq-core", "ezq-macros", "ezq-pgmq", "ezq-conformance"] {
        let line = manifest
            .lines()
            .find(|line| line.starts_with(&format!("{name} = ")))
            .unwrap_or_else(|| panic!("no requirement of {name}"));
        let exactly = concat!("version = \"=", env!("CARGO_PKG_VERSION"), '"');
        assert!(line.contains(exactly), "{line}");
    }
}
