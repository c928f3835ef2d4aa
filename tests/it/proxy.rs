//! A proxy between a worker and its server, which lets through, holds back, swallows or cuts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
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
    /// What the server answers is lost; what it is asked arrives, and is done.
    Mute,
}

/// A proxy in front of one server's socket.
pub(crate) struct Proxy {
    folder: PathBuf,
    switches: Switches,
    accepting: JoinHandle<()>,
}

#[derive(Clone)]
struct Switches {
    mode: watch::Sender<Mode>,
    cuts: watch::Sender<u64>,
    strandings: watch::Sender<u64>,
    trap: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Proxy {
    /// A proxy for the server that a URL names by the folder of its socket.
    pub(crate) fn before(url: &str) -> (Self, String) {
        let (start, rest) = url
            .split_once("host=")
            .expect("the server listens on a socket");
        let (host, end) = rest.split_once('&').expect("more options follow");

        let name = ezq::Envelope::builder("t", "t")
            .build()
            .unwrap()
            .id()
            .to_owned();
        let folder = std::env::temp_dir().join(format!("proxy_{}", &name[24..]));
        std::fs::create_dir(&folder).unwrap();

        let socket = std::fs::read_dir(host)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .find(|name| name.starts_with(".s.PGSQL.") && !name.ends_with(".lock"))
            .expect("the server has a socket");

        let listener = UnixListener::bind(folder.join(&socket)).unwrap();
        let switches = Switches {
            mode: watch::Sender::new(Mode::Pass),
            cuts: watch::Sender::new(0),
            strandings: watch::Sender::new(0),
            trap: Arc::default(),
        };

        let target = Path::new(host).join(socket);
        let accepting = tokio::spawn(accept(listener, target, switches.clone()));
        let url = format!("{start}host={}&{end}", folder.display());

        (
            Self {
                folder,
                switches,
                accepting,
            },
            url,
        )
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.switches.mode.send_replace(mode);
    }

    /// Cuts every connection that there is.
    pub(crate) fn cut(&self) {
        self.switches.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Leaves every connection that there is half open for good, as when an address moves to another
    /// machine; new ones work.
    pub(crate) fn strand(&self) {
        self.switches
            .strandings
            .send_modify(|strandings| *strandings += 1);
    }

    /// Leaves the next connection half open on which these bytes are sent: they arrive, and are not
    /// answered.
    pub(crate) fn strand_at(&self, bytes: &str) {
        *self.switches.trap.lock().unwrap() = Some(bytes.as_bytes().to_vec());
    }

    /// Whether a connection met the trap that was set last.
    pub(crate) fn has_stranded(&self) -> bool {
        self.switches.trap.lock().unwrap().is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        // A folder that stays harms nobody.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn accept(listener: UnixListener, target: PathBuf, switches: Switches) {
    while let Ok((client, _)) = listener.accept().await {
        let mode = switches.mode.subscribe();
        let mut cuts = switches.cuts.subscribe();
        let mut strandings = switches.strandings.subscribe();
        let trap = Arc::clone(&switches.trap);
        let target = target.clone();

        tokio::spawn(async move {
            // While the server is down its clients are turned away.
            let Ok(server) = UnixStream::connect(target).await else {
                return;
            };
            let mut client = client.into_split();
            let mut server = server.into_split();

            let trapped = |sent: &[u8]| {
                let mut trap = trap.lock().unwrap();
                let met = trap.as_ref().is_some_and(|bytes| {
                    sent.windows(bytes.len())
                        .any(|window| window == bytes.as_slice())
                });
                met && trap.take().is_some()
            };

            let stranded = tokio::select! {
                stranded = pump(&mut client.0, &mut server.1, mode.clone(), Mode::Mute, trapped) => {
                    stranded
                }
                stranded = pump(&mut server.0, &mut client.1, mode, Mode::Pass, |_| false) => {
                    stranded
                }
                _ = cuts.changed() => false,
                _ = strandings.changed() => true,
            };

            if stranded {
                // Both ends stay open, and neither hears of the other again.
                let _ = cuts.changed().await;
            }
        });
    }
}

/// Carries one direction while the mode is `Pass` or `also`, until it ends; whether it ended in a
/// trap.
async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    also: Mode,
    trapped: impl Fn(&[u8]) -> bool,
) -> bool {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if mode.wait_for(|mode| *mode != Mode::Stall).await.is_err() {
            return false;
        }

        let Ok(count) = from.read(&mut buffer).await else {
            return false;
        };
        if count == 0 {
            return false;
        }

        // What was read just before a stall waits as well.
        let Ok(now) = mode
            .wait_for(|mode| *mode != Mode::Stall)
            .await
            .map(|mode| *mode)
        else {
            return false;
        };

        let arrives = now == Mode::Pass || now == also;
        if arrives && to.write_all(&buffer[..count]).await.is_err() {
            return false;
        }

        if trapped(&buffer[..count]) {
            return true;
        }
    }
}
