use super::{Entries, Entry, Key, private};
use crate::errors::Errors;
use proc_macro2::TokenStream;
use quote::quote;
use syn::LitStr;

const KEYS: &[Key] = &[
    Key::once("name", "name = \"...\""),
    Key::once("order", "order = 1"),
    Key::once("retry", "retry(max_attempts = 5)"),
    Key::once("crate", "crate = path"),
    Key::repeatable("alias", "alias = \"...\""),
];

fn read(arguments: TokenStream) -> (Entries, Vec<String>) {
    let mut entries = Entries::new(KEYS);
    let mut errors = Errors::default();
    entries.read(arguments, &mut errors);
    let messages = match errors.finish() {
        Ok(()) => Vec::new(),
        Err(error) => error.into_iter().map(|error| error.to_string()).collect(),
    };
    (entries, messages)
}

fn entry(arguments: TokenStream, name: &str) -> Entry {
    let (mut entries, messages) = read(arguments);
    assert_eq!(messages, Vec::<String>::new());
    let at = entries
        .found
        .iter()
        .position(|entry| entry.key.name == name);
    entries.found.remove(at.expect("the key was given"))
}

#[test]
fn reads_values_lists_and_a_trailing_comma() {
    let (entries, messages) = read(quote!(name = "a", retry(max_attempts = 5), order = -3,));
    assert!(messages.is_empty(), "{messages:?}");

    let text = entries
        .find("name")
        .map(|entry| entry.text().map(|text| text.value()));
    assert_eq!(text.and_then(Result::ok).as_deref(), Some("a"));
    assert_eq!(
        entries.find("order").and_then(|entry| entry.signed().ok()),
        Some(-3)
    );

    let list = entries.find("retry").and_then(|entry| entry.list().ok());
    assert_eq!(
        list.map(|list| list.to_string()).as_deref(),
        Some("max_attempts = 5")
    );
}

#[test]
fn names_each_mistake_once() {
    let (_, messages) = read(quote!(
        nmae = "a",
        order = 1,
        order = 2,
        concurrency = 3,
        name
    ));
    assert_eq!(
        messages,
        [
            "unknown key `nmae`: did you mean `name`?",
            "`order` is given twice: keep one of them",
            "unknown key `concurrency`: the keys are `name`, `order`, `retry`, `crate`, `alias`",
            "write `name = \"...\"`",
        ]
    );
}

#[test]
fn a_repeatable_key_may_be_given_again() {
    let (entries, messages) = read(quote!(alias = "a", alias = "b"));
    assert!(messages.is_empty(), "{messages:?}");
    assert_eq!(entries.all("alias").count(), 2);
}

#[test]
fn refuses_stray_tokens() {
    assert_eq!(
        read(quote!(, name = "a")).1,
        ["expected a key before this comma"]
    );
    assert_eq!(read(quote!(retry(a) b)).1, ["expected a comma"]);
    assert_eq!(read(quote!(name: "a")).1, ["write `name = \"...\"`"]);
    assert!(read(quote!("a")).1[0].starts_with("expected a key: the keys are"));
}

#[test]
fn teaches_the_form_when_the_value_has_another_type() {
    let message = |result: syn::Result<LitStr>| result.map(|_| ()).map_err(|e| e.to_string());
    let taught = Err("`name` is written `name = \"...\"`".to_owned());
    assert_eq!(message(entry(quote!(name = 3), "name").text()), taught);
    assert_eq!(message(entry(quote!(name("a")), "name").text()), taught);
    assert_eq!(
        message(entry(quote!(name = "a" "b"), "name").text()),
        taught
    );
    assert!(entry(quote!(retry = 3), "retry").list().is_err());
}

#[test]
fn refuses_blank_and_control_characters() {
    for text in ["", "  ", "a\nb", "\u{0}"] {
        assert!(
            entry(quote!(name = #text), "name").text().is_err(),
            "{text:?}"
        );
    }
}

#[test]
fn bounds_numbers() {
    assert!(entry(quote!(order = 0), "order").positive().is_err());
    assert!(
        entry(quote!(order = 4294967296), "order")
            .positive()
            .is_err()
    );
    assert_eq!(entry(quote!(order = 7), "order").positive().ok(), Some(7));
    assert!(entry(quote!(order = 2147483648), "order").signed().is_err());
    assert_eq!(
        entry(quote!(order = -2147483648), "order").signed().ok(),
        Some(i32::MIN)
    );
}

#[test]
fn finds_the_private_module() {
    let path = |arguments| {
        let mut errors = Errors::default();
        private(&read(arguments).0, &mut errors)
            .to_string()
            .replace(' ', "")
    };
    assert_eq!(path(quote!()), "::ezq::__private");
    assert_eq!(path(quote!(crate = my::events)), "my::events::__private");
    assert_eq!(path(quote!(crate = crate)), "crate::__private");
}
