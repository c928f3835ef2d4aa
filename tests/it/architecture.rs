//! What ARCHITECTURE.md and the documents claim, as far as a test can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, ending, found);
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

fn all(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(Path::new(ROOT), ending, &mut found);
    assert!(
        found.len() > 3,
        "only {} files end in {ending}",
        found.len()
    );
    found
}

#[test]
fn crates_depend_downwards_only() {
    let allowed = BTreeMap::from([
        ("bench-peers", vec!["ezq"]),
        (
            "ezq",
            vec!["ezq-conformance", "ezq-core", "ezq-macros", "ezq-pgmq"],
        ),
        (
            "ezq-bench",
            vec![
                "ezq",
                "ezq-core",
                "ezq-kafka",
                "ezq-nats",
                "ezq-pgmq",
                "ezq-redis",
            ],
        ),
        ("ezq-cli", vec!["ezq", "ezq-ui"]),
        ("ezq-conformance", vec!["ezq-core"]),
        ("ezq-core", vec![]),
        ("ezq-kafka", vec!["ezq", "ezq-conformance", "ezq-core"]),
        ("ezq-macros", vec![]),
        ("ezq-nats", vec!["ezq", "ezq-conformance", "ezq-core"]),
        ("ezq-otel", vec!["ezq-core"]),
        ("ezq-pgmq", vec!["ezq-conformance", "ezq-core"]),
        ("ezq-redis", vec!["ezq", "ezq-conformance", "ezq-core"]),
        ("ezq-ui", vec!["ezq"]),
    ]);

    let mut seen = BTreeSet::new();
    for manifest in all("Cargo.toml") {
        let text = fs::read_to_string(&manifest).unwrap();
        let name = text
            .lines()
            .find_map(|line| line.strip_prefix("name = \""))
            .unwrap();
        let name = name.trim_end_matches('"').to_owned();
        let mut section = "";
        let mut dependencies = Vec::new();

        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            } else if section.ends_with("dependencies]")
                && !section.contains("workspace")
                && line.starts_with("ezq")
            {
                dependencies.push(line.split([' ', '.']).next().unwrap());
            }
        }

        let allowed = allowed
            .get(name.as_str())
            .unwrap_or_else(|| panic!("{name} is new"));
        for dependency in dependencies {
            assert!(
                allowed.contains(&dependency),
                "{name} depends on {dependency}"
            );
        }

        seen.insert(name);
    }
    assert_eq!(seen.len(), allowed.len(), "{seen:?}");
}

/// The folders of a crate, and the modules beside them, from the bottom up: each may import from
/// those before its own, and from itself.
const CORE: [&str; 26] = [
    "text", "error", "clock", "logging", "runtime", "message", "event", "codec", "broker",
    "engine", "memory", "delivery", "observe", "publish", "schedule", "handler", "relay", "config",
    "private", "dispatch", "shared", "admin", "consumer", "ingest", "app", "testing",
];
const PGMQ: [&str; 23] = [
    "embedded",
    "sql",
    "config",
    "error",
    "message",
    "connection",
    "schema",
    "wake",
    "inbox",
    "publish",
    "retention",
    "admin",
    "doctor",
    "claim",
    "settle",
    "holders",
    "engine",
    "capture",
    "replay",
    "tx",
    "contract",
    "within",
    "testing",
];

/// The folders and modules of its crate that a line names.
fn imported(line: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for rest in line.split("crate::").skip(1) {
        let list = rest.strip_prefix('{').unwrap_or(rest);
        let parts = list.split(", ");
        let count = if list.len() < rest.len() {
            usize::MAX
        } else {
            1
        };

        names.extend(parts.take(count).map(|part| {
            let end = part.find(|c: char| !c.is_alphanumeric() && c != '_');
            &part[..end.unwrap_or(part.len())]
        }));
    }

    names
}

#[test]
fn folders_import_downwards_only() {
    for (source, layers) in [("ezq-core/src", &CORE[..]), ("ezq-pgmq/src", &PGMQ[..])] {
        let source = Path::new(ROOT).join(source);
        let mut found = Vec::new();
        files(&source, ".rs", &mut found);
        let arrows: usize = found.iter().map(|file| arrows(&source, file, layers)).sum();
        assert!(arrows > 250, "only {arrows} imports were seen");
    }
}

/// Checks what a file of a crate imports; how many imports those are.
fn arrows(source: &Path, file: &Path, layers: &[&str]) -> usize {
    let inside = file.strip_prefix(source).unwrap();
    let folder = inside.components().next().unwrap().as_os_str();
    let folder = folder.to_str().unwrap().trim_end_matches(".rs");
    if folder == "lib" || inside.ends_with("tests.rs") {
        return 0;
    }

    let layer = layers.iter().position(|name| *name == folder);
    let layer = layer.unwrap_or_else(|| panic!("the folder {folder} is new: give it a layer"));

    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut arrows = 0;
    for line in code.lines().map(str::trim) {
        if line.starts_with("//") || line.contains("$crate") {
            continue;
        }

        let names = imported(line).into_iter();
        for name in names.filter(|name| !name.starts_with("__")) {
            let place = inside.display();
            let is_below = layers[..=layer].contains(&name);
            assert!(
                is_below,
                "{place} imports `crate::{name}`, which lies above"
            );
            arrows += 1;
        }
    }

    arrows
}

/// The names that stand flat at a crate's root. A module that is re-exported has a small letter.
fn flat_names(root: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(ROOT).join(root)).unwrap();
    let mut names = Vec::new();
    for statement in text.split("\npub use ").skip(1) {
        let statement = statement.split(';').next().unwrap();
        let list = statement.split('{').next_back().unwrap();
        for part in list.trim_end_matches('}').split(',').map(str::trim) {
            let name = part.rsplit([' ', ':']).next().unwrap();
            assert_ne!(name, "*", "{root} re-exports all of `{statement}`");
            if name.starts_with(char::is_uppercase) {
                names.push(name.to_owned());
            }
        }
    }
    names
}

#[test]
fn the_roots_of_the_crates_hold_few_names() {
    let facade = flat_names("src/lib.rs");
    assert!(facade.iter().any(|name| name == "Ezq"), "{facade:?}");
    assert!(facade.len() <= 40, "{} names: {facade:?}", facade.len());

    let core = flat_names("ezq-core/src/lib.rs");
    assert_eq!(core, ["Error", "ErrorKind", "Result"]);
}

#[test]
fn no_source_file_is_too_long() {
    for file in all(".rs") {
        let is_test = file.components().any(|part| part.as_os_str() == "tests")
            || file.file_name().is_some_and(|name| name == "tests.rs");
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(
            is_test || lines <= 500,
            "{} has {lines} lines",
            file.display()
        );
    }
}

#[test]
fn every_path_that_the_architecture_names_exists() {
    let text = fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).unwrap();
    let code = text.split('`').skip(1).step_by(2);
    let paths: Vec<&str> = code.filter(|code| code.contains("/src/")).collect();
    assert!(paths.len() > 10, "only {paths:?}");
    for path in paths {
        let exists = Path::new(ROOT).join(path).exists();
        assert!(exists, "ARCHITECTURE.md names `{path}`, which is not there");
    }
}

/// The functions of all files, each with the files that have one of this name.
fn functions() -> BTreeMap<String, Vec<PathBuf>> {
    let mut functions: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in all(".rs") {
        let text = fs::read_to_string(&file).unwrap();
        for line in text.lines() {
            let line = line.trim_start().trim_start_matches("pub(super) ");
            let Some(rest) = line.trim_start_matches("async ").strip_prefix("fn ") else {
                continue;
            };
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            functions
                .entry(name.to_owned())
                .or_default()
                .push(file.clone());
        }
    }
    functions
}

/// A test is named in a document as `module::function_name`, or `crate: module::function_name`. Each
/// of its modules is in the path of the test's file.
#[test]
fn every_test_that_a_document_names_exists() {
    let functions = functions();
    let mut named = 0;
    let mut documents = vec![PathBuf::from(ROOT).join("README.md")];
    files(&Path::new(ROOT).join("docs"), ".md", &mut documents);

    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        let document = document.display();
        for code in text.split('`').skip(1).step_by(2) {
            let Some((modules, name)) = code.rsplit_once("::") else {
                continue;
            };
            let is_test = name.matches('_').count() >= 2
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if !is_test {
                continue;
            }

            named += 1;
            let modules = modules.rsplit(": ").next().unwrap_or_default();
            let is_there = functions.get(name).is_some_and(|files| {
                files.iter().any(|file| {
                    let path = file.to_string_lossy();
                    modules.split("::").all(|module| path.contains(module))
                })
            });
            assert!(is_there, "{document} names `{code}`, which is no test");
        }
    }

    assert!(named > 20, "the documents name only {named} tests");
}
