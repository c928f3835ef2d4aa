//! What runs on a machine that lacks a program which some tests need.

use std::process::{Command, Output};

use crate::skip;

const TEST: &str = "trials::workers_clocks_are_wrong";

fn run_without_programs(required: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", TEST])
        .env("PATH", "/nonexistent")
        .env(skip::REQUIRE, required);
    command.output().unwrap()
}

#[test]
fn a_test_without_its_program_is_skipped_visibly() {
    let output = run_without_programs("");
    let said = String::from_utf8(output.stderr).unwrap();
    let line = format!("skipped {TEST}: faketime is not installed (apt-get install -y faketime)\n");
    assert!(output.status.success(), "{said}");
    assert_eq!(said, line);
}

#[test]
fn a_test_without_its_program_fails_where_all_must_run() {
    let output = run_without_programs("1");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("apt-get install -y faketime"), "{said}");
}
