//! Counts the statements that a dashboard sends to its server.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use ezq::testing::TestDatabase;
use ezq::{CancellationToken, Ezq};
use ezq_ui::Dashboard;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::stage::{application, get, operators, post, publish, send};

/// A proxy in front of a server's socket.
pub(crate) struct Counting {
    folder: PathBuf,
    statements: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
    cut: CancellationToken,
    /// Whether answers of the server wait.
    is_stalled: watch::Sender<bool>,
}

impl Counting {
    /// A proxy for the server that a URL names by the folder of its socket, and the URL of the proxy.
    pub(crate) fn before(url: &str, test: &str) -> (Self, String) {
        let (start, rest) = url.split_once("host=").unwrap();
        let (host, end) = rest.split_once('&').unwrap();
        let port = start.rsplit_once(':').unwrap().1.split('/').next().unwrap();
        let name = format!(".s.PGSQL.{port}");
        let folder = std::env::temp_dir().join(format!("ezq-ui-{}-{test}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();

        let listener = UnixListener::bind(folder.join(&name)).unwrap();
        let target = PathBuf::from(host).join(name);
        let statements = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&statements);
        let cut = CancellationToken::new();
        let each = cut.clone();
        let is_stalled = watch::Sender::new(false);
        let stalls = is_stalled.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&target).await.unwrap();
                let passed = pass(client, server, Arc::clone(&count), stalls.subscribe());
                let each = each.clone();
                tokio::spawn(async move { each.run_until_cancelled(passed).await });
            }
        });
        let url = format!("{start}host={}&{end}", folder.display());
        let proxy = Self {
            folder,
            statements,
            accepting,
            cut,
            is_stalled,
        };
        (proxy, url)
    }

    /// Ends every connection, and takes no other: the server is away.
    pub(crate) fn cut(&self) {
        self.accepting.abort();
        self.cut.cancel();
    }

    /// Keeps back what the server answers, or lets it pass again: the server is slow.
    pub(crate) fn stall(&self, is_stalled: bool) {
        self.is_stalled.send_replace(is_stalled);
    }

    fn statements(&self) -> u64 {
        self.statements.load(Ordering::SeqCst)
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.accepting.abort();
        // A folder that stays harms nobody.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn pass(
    client: UnixStream,
    server: UnixStream,
    statements: Arc<AtomicU64>,
    mut is_stalled: watch::Receiver<bool>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move {
        // An end of either side ends both.
        let mut answer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut answer).await {
            let goes_on = is_stalled.wait_for(|is_stalled| !is_stalled).await.is_ok();
            if !goes_on || to_client.write_all(&answer[..length]).await.is_err() {
                return;
            }
        }
    });

    // The first message has no tag.
    let mut has_tag = false;
    while let Some((tag, message)) = message(&mut from_client, has_tag).await {
        // `Execute` and `Query`, of the extended and of the simple protocol.
        if matches!(tag, Some(b'E' | b'Q')) {
            statements.fetch_add(1, Ordering::SeqCst);
        }
        if to_server.write_all(&message).await.is_err() {
            return;
        }
        has_tag = true;
    }
}

/// A message of Postgres' protocol, and its tag: a tag, the length of what follows it, and a body.
async fn message(
    from: &mut (impl AsyncRead + Unpin),
    has_tag: bool,
) -> Option<(Option<u8>, Vec<u8>)> {
    let mut message = Vec::new();
    let mut tag = None;
    if has_tag {
        let read = from.read_u8().await.ok()?;
        message.push(read);
        tag = Some(read);
    }
    let length = from.read_u32().await.ok()?;
    message.extend(length.to_be_bytes());
    let mut body = vec![0; length as usize - 4];
    from.read_exact(&mut body).await.ok()?;
    message.extend(body);
    Some((tag, message))
}

#[ezq::test]
async fn two_browsers_cost_the_statements_of_one(database: TestDatabase) {
    let writer = application(&database).await;
    publish(&writer, "orders", "order.paid", "1").await;
    let (proxy, url) = Counting::before(&database.url(), "two-browsers");
    let ezq = Ezq::builder()
        .without_discovered_handlers()
        .database_url(&url)
        .connect()
        .await
        .unwrap();
    // No round comes by itself during the test.
    let every = std::time::Duration::from_secs(60 * 60);
    let dashboard = Dashboard::new(ezq, operators()).refresh(every);
    let router = Router::new().nest("/ops", dashboard.router());

    let paths = [
        "/ops",
        "/ops/queues",
        "/ops/dead",
        "/ops/consumers",
        "/ops/queues/orders",
        "/ops/queues/orders/errors",
        "/ops/operations",
        "/ops/audit",
    ];
    let before = proxy.statements();
    for path in paths {
        assert_eq!(get(&router, path).await.status, StatusCode::OK, "{path}");
    }
    let first = proxy.statements() - before;
    assert!(first > 0);

    for _ in 0..10 {
        for browser in ["ada", "grace"] {
            for path in paths {
                let request = Request::get(path).header("cookie", format!("user={browser}"));
                let answer = send(&router, request.body(Body::empty()).unwrap()).await;
                assert_eq!(answer.status, StatusCode::OK, "{path}");
            }
        }
    }
    assert_eq!(proxy.statements() - before, first);

    // What one of them does is seen by both, and costs one more round.
    let before = proxy.statements();
    post(&router, "/ops/queues/orders/pause", "reason=x").await;
    get(&router, "/ops").await;
    let after = proxy.statements();
    assert!(after > before);
    for _ in 0..10 {
        assert!(get(&router, "/ops").await.text.contains("tag paused"));
    }
    assert_eq!(proxy.statements(), after);
}
