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
        (
            "ezq",
            vec!["ezq-conformance", "ezq-core", "ezq-macros", "ezq-pgmq"],
        ),
        ("ezq-bench", vec!["ezq", "ezq-core", "ezq-pgmq"]),
        ("ezq-conformance", vec!["ezq-core"]),
        ("ezq-core", vec![]),
        ("ezq-macros", vec![]),
        ("ezq-pgmq", vec!["ezq-conformance", "ezq-core"]),
    ]);
    let mut seen = BTreeSet::new();
    for manifest in all("Cargo.toml") {
        let text = fs::read_to_string(&manifest).unwrap();
        let name = text
            .lines()
            .find_map(|line| line.strip_prefix("name = \""))
            .unwrap();
        let name = name.trim_end_matches('"').to_owned();
        let (mut section, mut dependencies) = ("", Vec::new());
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

#[test]
fn no_source_file_is_too_long() {
    for file in all(".rs") {
        let is_test = file.components().any(|part| part.as_os_str() == "tests")
            || file.file_name().is_some_and(|name| name == "tests.rs");
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(
            is_test || lines <= 560,
            "{} has {lines} lines",
            file.display()
        );
    }
}

/// A test is named in a document as `module::function_name`, or `crate: module::function_name`.
#[test]
fn every_test_that_a_document_names_exists() {
    let tests: BTreeSet<String> = all(".rs")
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(file).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            let named = |pair: &[&str]| {
                let line = pair[1].trim_start().trim_start_matches("pub(super) ");
                let name = line.trim_start_matches("async ").strip_prefix("fn ")?;
                Some(name.split(['(', '<']).next()?.to_owned())
            };
            lines.windows(2).filter_map(named).collect::<Vec<_>>()
        })
        .collect();
    let mut named = 0;
    let mut documents = vec![PathBuf::from(ROOT).join("README.md")];
    files(&Path::new(ROOT).join("docs"), ".md", &mut documents);
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        let document = document.display();
        for code in text.split('`').skip(1).step_by(2) {
            let Some((_, name)) = code.rsplit_once("::") else {
                continue;
            };
            let is_test = name.matches('_').count() >= 2
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if is_test {
                named += 1;
                assert!(
                    tests.contains(name),
                    "{document} names `{code}`, which is no test"
                );
            }
        }
    }
    assert!(named > 20, "the documents name only {named} tests");
}
