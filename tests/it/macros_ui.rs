//! What the macros say to a mistake, and what they must compile.
//!
//! Every file in `tests/ui` is a program with one mistake and is named after it; comments at its
//! top tell what the compiler must report, and it must report nothing else:
//!
//! ```text
//! // error: a sentence of one error
//! // note: a further sentence of the same error
//! // at: the source that it underlines
//! ```
//!
//! (`// others` allows more errors, where another crate's macro speaks too.)
//!
//! Every file in `tests/ui/pass` must compile without an error or a warning. One `cargo check`
//! compiles them all. The sentences are ezq's own: rustc's words around them may change.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// One error that a case must cause.
#[derive(Debug)]
struct Expected {
    sentences: Vec<String>,
    at: Option<String>,
}

/// One error or warning that rustc gave.
#[derive(Debug)]
struct Diagnostic {
    rendered: String,
    is_error: bool,
    /// The source under the primary spans.
    at: Vec<String>,
}

#[test]
fn each_mistake_is_one_error_that_says_what_to_write() {
    let mistakes = cases(&Path::new(ROOT).join("tests/ui"), "mistake-");
    let passing = cases(&Path::new(ROOT).join("tests/ui/pass"), "pass-");
    assert!(
        mistakes.len() >= 12 && !passing.is_empty(),
        "the cases are where they were"
    );

    let all: BTreeMap<_, _> = mistakes.iter().chain(&passing).collect();
    let diagnostics = check(&all);

    let mut failures = String::new();

    for (name, path) in all {
        let source = fs::read_to_string(path).expect("a readable case");
        let given = diagnostics
            .get(name.as_str())
            .map_or(&[][..], Vec::as_slice);

        let verdict = if passing.contains_key(name) {
            given
                .first()
                .map_or(Ok(()), |first| Err(first.rendered.clone()))
        } else {
            compare(&source, given)
        };

        if let Err(complaint) = verdict {
            writeln!(failures, "{}:\n{complaint}", path.display()).expect("writing to a string");
        }
    }

    assert!(failures.is_empty(), "\n{failures}");
}

fn cases(directory: &Path, prefix: &str) -> BTreeMap<String, PathBuf> {
    fs::read_dir(directory)
        .expect("the directory of the cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let stem = path
                .file_stem()
                .expect("a stem")
                .to_string_lossy()
                .into_owned();
            (format!("{prefix}{stem}"), path)
        })
        .collect()
}

/// Checks all cases as binaries of one generated package. It shares the target directory and the
/// lock file of the tests themselves, so nothing is fetched and little is built again.
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn check(cases: &BTreeMap<&String, &PathBuf>) -> BTreeMap<String, Vec<Diagnostic>> {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("macros-ui");
    fs::create_dir_all(&scratch).expect("a scratch directory");

    let mut manifest = format!(
        "[package]\nname = \"macros-ui\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [workspace]\nresolver = \"3\"\n\n\
         [dependencies]\nezq = {{ path = {ROOT:?} }}\n\
         serde = {{ version = \"1\", features = [\"derive\"] }}\n\n\
         [profile.dev]\ndebug = \"line-tables-only\"\n\n\
         [profile.dev.package.\"*\"]\ndebug = false\n"
    );

    for (name, path) in cases {
        write!(manifest, "\n[[bin]]\nname = {name:?}\npath = {path:?}\n").expect("a string");
    }

    fs::write(scratch.join("Cargo.toml"), manifest).expect("a manifest");
    fs::copy(
        Path::new(ROOT).join("Cargo.lock"),
        scratch.join("Cargo.lock"),
    )
    .expect("a lock file");

    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("the target directory");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);

    // What cargo says about this package, build scripts would take for a change of theirs, and
    // everything above them would be built again, here and in the next run outside.
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&variable);
        }
    }

    let output = command
        .args([
            "check",
            "--offline",
            "--keep-going",
            "--bins",
            "--message-format=json",
            "--quiet",
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(&scratch)
        // Flags of the run outside, such as `-D warnings`, are not what the cases are about.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .output()
        .expect("cargo runs");

    let mut reached = BTreeSet::new();
    let mut diagnostics: BTreeMap<String, Vec<Diagnostic>> = BTreeMap::new();

    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let Some(target) = message["target"]["name"].as_str() else {
            continue;
        };
        reached.insert(target.to_owned());

        if let Some(diagnostic) = diagnostic(&message["message"]) {
            diagnostics
                .entry(target.to_owned())
                .or_default()
                .push(diagnostic);
        }
    }

    let unreached: Vec<_> = cases
        .keys()
        .filter(|name| !reached.contains(**name))
        .collect();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        unreached.is_empty(),
        "cargo did not get to {unreached:?}:\n{complaint}"
    );

    diagnostics
}

fn diagnostic(message: &Value) -> Option<Diagnostic> {
    let level = message["level"].as_str()?;
    let spans = message["spans"].as_array()?;

    // What has no place only counts the others.
    if !matches!(level, "error" | "warning") || spans.is_empty() {
        return None;
    }

    let primary = spans.iter().filter(|span| span["is_primary"] == true);
    Some(Diagnostic {
        rendered: message["rendered"].as_str()?.to_owned(),
        is_error: level == "error",
        at: primary.filter_map(underlined).collect(),
    })
}

fn underlined(span: &Value) -> Option<String> {
    let line = &span["text"][0];
    let column = |key: &str| usize::try_from(line[key].as_u64()?).ok()?.checked_sub(1);
    let start = column("highlight_start")?;
    let end = column("highlight_end")?;

    Some(
        line["text"]
            .as_str()?
            .chars()
            .skip(start)
            .take(end - start)
            .collect(),
    )
}

fn expectations(source: &str) -> Vec<Expected> {
    let mut expected: Vec<Expected> = Vec::new();

    for line in source.lines().map_while(|line| line.strip_prefix("// ")) {
        if let Some(sentence) = line.strip_prefix("error: ") {
            expected.push(Expected {
                sentences: vec![sentence.to_owned()],
                at: None,
            });
        } else if let (Some(sentence), Some(last)) =
            (line.strip_prefix("note: "), expected.last_mut())
        {
            last.sentences.push(sentence.to_owned());
        } else if let (Some(source), Some(last)) = (line.strip_prefix("at: "), expected.last_mut())
        {
            last.at = Some(source.to_owned());
        }
    }

    expected
}

fn compare(source: &str, given: &[Diagnostic]) -> Result<(), String> {
    let expected = expectations(source);
    let others = source.lines().any(|line| line == "// others");
    let errors: Vec<_> = given
        .iter()
        .filter(|diagnostic| diagnostic.is_error)
        .collect();

    let rendered = || {
        errors
            .iter()
            .map(|error| error.rendered.as_str())
            .collect::<String>()
    };

    if expected.is_empty() {
        return Err("no `// error:` says what is expected".to_owned());
    }

    if expected.len() != errors.len() && !others {
        let counts = format!("{} errors, not {}", errors.len(), expected.len());
        return Err(format!("{counts}:\n{}", rendered()));
    }

    for expected in expected {
        let fits = |error: &&&Diagnostic| {
            expected
                .sentences
                .iter()
                .all(|sentence| error.rendered.contains(sentence.as_str()))
        };

        let Some(error) = errors.iter().find(fits) else {
            return Err(format!(
                "nothing says {:?}:\n{}",
                expected.sentences,
                rendered()
            ));
        };

        if expected
            .at
            .as_ref()
            .is_some_and(|at| !error.at.contains(at))
        {
            return Err(format!(
                "{:?} is not at {:?}:\n{}",
                error.at, expected.at, error.rendered
            ));
        }
    }

    Ok(())
}
