//! A proxy between a worker and its server, which lets through, holds back, swallows or cuts.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of what either side sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It arrives.
    Pass,
    /// It waits, and arrives later.
    Stall,
    /// It is lost, and nobody is told: the connection is half open.
    Swallow,
}

/// A proxy in front of one server's socket.
pub(crate) struct Proxy {
    folder: PathBuf,
    mode: watch::Sender<Mode>,
    cuts: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy for the server that a URL names by the folder of its socket.
    pub(crate) fn before(url: &str) -> (Self, String) {
        let (start, rest) = url.split_once("host=").expect("the server listens on a socket");
        let (host, end) = rest.split_once('&').expect("more options follow");
        let name = ezq::Envelope::builder("t", "t").build().unwrap().id().to_owned();
        let folder = std::env::temp_dir().join(format!("proxy_{}", &name[24..]));
        std::fs::create_dir(&folder).unwrap();
        let socket = std::fs::read_dir(host)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .find(|name| name.starts_with(".s.PGSQL.") && !name.ends_with(".lock"))
            .expect("the server has a socket");
        let listener = UnixListener::bind(folder.join(&socket)).unwrap();
        let (mode, cuts) = (watch::Sender::new(Mode::Pass), watch::Sender::new(0));
        let target = Path::new(host).join(socket);
        let accepting = tokio::spawn(accept(listener, target, mode.clone(), cuts.clone()));
        let url = format!("{start}host={}&{end}", folder.display());
        (Self { folder, mode, cuts, accepting }, url)
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Cuts every connection that there is.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        // A folder that stays harms nobody.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn accept(
    listener: UnixListener,
    target: PathBuf,
    mode: watch::Sender<Mode>,
    cuts: watch::Sender<u64>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let (mode, mut cuts) = (mode.subscribe(), cuts.subscribe());
        cuts.mark_unchanged();
        let target = target.clone();
        tokio::spawn(async move {
            // While the server is down its clients are turned away.
            let Ok(server) = UnixStream::connect(target).await else { return };
            let (client, server) = (client.into_split(), server.into_split());
            tokio::select! {
                () = pump(client.0, server.1, mode.clone()) => {}
                () = pump(server.0, client.1, mode) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

/// Carries one direction.
async fn pump(
    mut from: tokio::net::unix::OwnedReadHalf,
    mut to: tokio::net::unix::OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if mode.wait_for(|mode| *mode != Mode::Stall).await.is_err() {
            return;
        }
        let Ok(count) = from.read(&mut buffer).await else { return };
        if count == 0 {
            return;
        }
        // What was read just before a stall waits as well.
        let Ok(now) = mode.wait_for(|mode| *mode != Mode::Stall).await.map(|mode| *mode) else {
            return;
        };
        if now == Mode::Pass && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
