//! `ezq ui` and `ezq dev --demo`, as processes of their own.
#![cfg(unix)]

use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ezq::sqlx;
use ezq::testing::TestDatabase;
use serde_json::Value;

use crate::program::{TestFile, bury, command, ezq, publisher, run};

/// A command that runs until it is asked to end.
struct Running {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    said: Option<JoinHandle<String>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let streams = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = streams.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // If nobody read it, the program would wait for a reader.
        let mut stderr = process.stderr.take().unwrap();
        let said = std::thread::spawn(move || {
            let mut said = String::new();
            stderr.read_to_string(&mut said).unwrap();
            said
        });
        Self {
            process,
            lines,
            said: Some(said),
        }
    }

    /// The next line that it prints.
    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    /// Ends it as Ctrl-C does, and returns what it said beside its data.
    fn interrupt(mut self) -> String {
        let interrupt = format!("kill -INT {}", self.process.id());
        let asked = Command::new("sh").args(["-c", &interrupt]).status();
        assert!(asked.unwrap().success());
        assert!(self.process.wait().unwrap().success());
        self.said.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of a test that failed; any other has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One request: the answer with its head.
fn request(url: &str, method: &str, headers: &str, body: &str) -> String {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host).unwrap();
    let request = format!(
        "{method} /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\nsec-fetch-site: same-origin\r\n\
         content-length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap()
}

/// The header with which a browser sends back the cookie that it was given.
fn cookie(answer: &str) -> String {
    let given = answer.split("set-cookie: ").nth(1).unwrap();
    format!("cookie: {}\r\n", given.split(';').next().unwrap())
}

/// The server of a link or of an address.
fn server(url: &str) -> &str {
    let end = url.match_indices('/').nth(2).unwrap().0;
    &url[..end]
}

#[ezq::test]
async fn the_dashboard_is_served_until_ctrl_c(database: TestDatabase) {
    let url = database.url();
    bury(&database, "orders", &[("order.paid", "no such account")]).await;
    let mut ui = command(&["ui", "-vv"]);
    let mut ui = Running::start(ui.env("EZQ_DATABASE_URL", &url));
    let link = ui.line();
    let base = server(&link).to_owned();
    assert!(link.starts_with("http://127.0.0.1:"), "{link}");

    assert_eq!(status(&request(&format!("{base}/"), "GET", "", "")), "401");
    let cookie = cookie(&request(&link, "GET", "", ""));
    let page = request(&format!("{base}/queues"), "GET", &cookie, "");
    assert!(page.contains("orders"), "{page}");
    let pause = format!("{base}/queues/orders/pause");
    assert_eq!(status(&request(&pause, "POST", &cookie, "reason=x")), "303");
    let paused = &ezq(&url, &["queue", "show", "orders", "--json"]).objects()[0];
    assert!(paused.to_string().contains("ada"), "{paused}");

    let said = ui.interrupt();
    assert!(said.contains("one browser"), "{said}");
    // Not even with all that is logged.
    let token = link.split_once("token=").unwrap().1;
    assert!(token.len() == 43 && !said.contains(token), "{said}");
    assert!(TcpStream::connect(base.strip_prefix("http://").unwrap()).is_err());
}

/// Starts a dashboard, and signs in: its address, and the header of one who has.
fn dashboard(url: &str) -> (Running, String, String) {
    let mut ui = command(&["ui"]);
    let mut ui = Running::start(ui.env("EZQ_DATABASE_URL", url));
    let link = ui.line();
    let cookie = cookie(&request(&link, "GET", "", ""));
    (ui, server(&link).to_owned(), cookie)
}

/// How many dead letters a bulk operation goes through. More than a killed process can have done.
const LETTERS: i64 = 20_000;

#[ezq::test]
async fn what_a_killed_dashboard_has_begun_another_one_ends_and_nothing_is_done_twice(
    database: TestDatabase,
) {
    let url = database.url();
    bury(&database, "orders", &[("order.paid", "the first")]).await;
    let app = publisher(&database).await;
    let letters = "INSERT INTO pgmq.q_orders_dlq (vt, message, headers)
        SELECT now(), jsonb_build_object('specversion', '1.0', 'id', n::text, 'source', '/s',
                                         'type', 'order.paid', 'data', n), '{}'
        FROM generate_series(2, $1) n";
    let stored = sqlx::query(letters).bind(LETTERS).execute(app.pool());
    stored.await.unwrap();

    let (mut first, base, cookie) = dashboard(&url);
    let all = format!("{base}/queues/orders/all/dead/redrive");
    let begun = request(&all, "POST", &cookie, "last=1000000&reason=a+test");
    assert_eq!(status(&begun), "303", "{begun}");
    let id = begun.split("/operations/").nth(1).unwrap();
    let id = id.split(['?', '\r']).next().unwrap().to_owned();
    let done = async || -> (i64, bool) {
        let query = "SELECT done, ended_at IS NOT NULL FROM ezq.operations WHERE id = $1";
        let query = sqlx::query_as(query).bind(&id);
        query.fetch_one(app.pool()).await.unwrap()
    };
    let began = Instant::now();
    while done().await.0 == 0 {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "no step was taken"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // It gets no time to end anything.
    first.process.kill().unwrap();
    first.process.wait().unwrap();
    let (so_far, has_ended) = done().await;
    assert!(
        so_far > 0 && so_far < LETTERS && !has_ended,
        "{so_far} were done"
    );

    let (second, base, cookie) = dashboard(&url);
    let page = request(&format!("{base}/operations/{id}"), "GET", &cookie, "");
    assert_eq!(status(&page), "200", "{page}");
    let resume = format!("{base}/operations/{id}/resume");
    assert_eq!(status(&request(&resume, "POST", &cookie, "")), "303");
    let began = Instant::now();
    while !done().await.1 {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "it does not end"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(done().await.0, LETTERS);
    let counts = "SELECT count(*), count(DISTINCT message ->> 'id'),
                         (SELECT count(*) FROM pgmq.q_orders_dlq) FROM pgmq.q_orders";
    let counted: (i64, i64, i64) = sqlx::query_as(counts).fetch_one(app.pool()).await.unwrap();
    assert_eq!(counted, (LETTERS, LETTERS, 0), "each is there once");
    second.interrupt();
}

#[ezq::test]
async fn one_may_look_and_change_nothing(database: TestDatabase) {
    let url = database.url();
    bury(&database, "orders", &[("order.paid", "no such account")]).await;
    for flag in ["--read-only", "--dry-run"] {
        let mut ui = command(&["ui", "--json", flag]);
        let mut ui = Running::start(ui.env("EZQ_DATABASE_URL", &url));
        let printed: Value = serde_json::from_str(&ui.line()).unwrap();
        let link = printed["url"].as_str().unwrap();
        let cookie = cookie(&request(link, "GET", "", ""));
        let pause = format!("{}/queues/orders/pause", server(link));
        assert_eq!(status(&request(&pause, "POST", &cookie, "reason=x")), "403");
        ui.interrupt();
    }
}

#[ezq::test]
async fn other_machines_sign_in_with_a_secret(database: TestDatabase) {
    let url = database.url();
    let _app = publisher(&database).await;
    let open = ["ui", "--listen", "0.0.0.0:0"];
    ezq(&url, &open).fails(2, "give a token or a password file");
    let mut weak = command(&open);
    let weak = weak
        .env("EZQ_DATABASE_URL", &url)
        .env("EZQ_UI_TOKEN", "short");
    run(weak).fails(2, "`openssl rand -base64 32` prints one");

    let token = "a-token-that-nobody-guesses";
    let file = TestFile::new("token", token);
    let path = file.path.to_str().unwrap();
    let chmod = |mode: &str| Command::new("chmod").args([mode, path]).status();
    assert!(chmod("644").unwrap().success());
    let with_file = [&open[..], &["--token-file", path]].concat();
    ezq(&url, &with_file).fails(2, "`chmod 600` it");

    let mut ui = command(&open);
    let ui = ui.env("EZQ_DATABASE_URL", &url).env("EZQ_UI_TOKEN", token);
    let mut ui = Running::start(ui);
    let printed = ui.line();
    let port = printed.rsplit(':').next().unwrap().trim_end_matches('/');
    let login = format!("http://127.0.0.1:{port}/login");
    assert_eq!(
        status(&request(&login, "POST", "", "secret=another")),
        "401"
    );
    let form = format!("secret={token}");
    assert_eq!(status(&request(&login, "POST", "", &form)), "303");
    let said = ui.interrupt();
    assert!(
        said.contains("It speaks no TLS") && !said.contains("no option of ezq"),
        "{said}"
    );
}

#[ezq::test]
async fn a_proxy_names_who_acts(database: TestDatabase) {
    let url = database.url();
    bury(&database, "orders", &[("order.paid", "no such account")]).await;
    let wrong = ["ui", "--user-header", "X User"];
    ezq(&url, &wrong).fails(2, "the name of a header has letters");

    let mut ui = command(&["ui", "--user-header", "X-Forwarded-User"]);
    let mut ui = Running::start(ui.env("EZQ_DATABASE_URL", &url));
    let link = ui.line();
    let cookie = cookie(&request(&link, "GET", "", ""));
    let pause = format!("{}/queues/orders/pause", server(&link));
    // Who comes past the proxy, and who sends a name of their own along, may only look.
    for names in [
        "",
        "x-forwarded-user: \r\n",
        "x-forwarded-user: eve\r\nx-forwarded-user: ada\r\n",
    ] {
        let refused = request(&pause, "POST", &format!("{cookie}{names}"), "");
        assert_eq!(status(&refused), "403", "{names:?}");
        let page = request(server(&link), "GET", &format!("{cookie}{names}"), "");
        assert!(page.contains("you may look and change nothing"), "{page}");
    }
    let named = format!("{cookie}X-Forwarded-User: zoé <zoe@example.com>\r\n");
    assert_eq!(status(&request(&pause, "POST", &named, "")), "303");
    let audit = &ezq(&url, &["audit", "list", "--json"]).objects()[0];
    assert_eq!(audit["by"], "zoé <zoe@example.com>");
    ui.interrupt();
}

#[test]
fn a_password_is_hashed_for_its_file() {
    let mut hashing = command(&["ui", "--hash-password"]);
    let streams = hashing.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = streams.spawn().unwrap();
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(b"correct horse\n").unwrap();
    drop(stdin);
    let ended = running.wait_with_output().unwrap();
    let hash = String::from_utf8(ended.stdout).unwrap();
    assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
}

#[test]
fn the_demo_shows_a_shop_at_work_and_ends_with_ctrl_c() {
    let mut dev = command(&["dev", "--demo"]);
    // It finds or fetches the binaries of Postgres as the tests do.
    for name in [
        "PATH",
        "HOME",
        "EZQ_PG_CACHE",
        "EZQ_PG_BIN",
        "XDG_CACHE_HOME",
    ] {
        if let Some(value) = std::env::var_os(name) {
            dev.env(name, value);
        }
    }
    let mut demo = Running::start(&mut dev);
    let url = demo.line();
    let link = demo.line();
    let base = server(&link).to_owned();
    let cookie = cookie(&request(&link, "GET", "", ""));

    // Handlers that fail, and dead letters, come after some seconds.
    let expected = [
        "orders",
        "payments",
        "shipping",
        "reports",
        "charge",
        "the bank gave no answer",
    ];
    let began = Instant::now();
    loop {
        let page = request(&format!("{base}/"), "GET", &cookie, "");
        let dead = request(&format!("{base}/queues/payments/dead"), "GET", &cookie, "");
        let is_shown = expected.iter().all(|text| page.contains(text));
        if is_shown && dead.contains("the card has expired") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{page}\n{dead}");
        std::thread::sleep(Duration::from_millis(200));
    }
    for (path, shown) in [
        ("schedules", "reports.sales"),
        ("consumers", "demo-shop"),
        ("subscriptions", "shipping"),
        ("catalogue", "carts.sweep"),
    ] {
        let page = request(&format!("{base}/{path}"), "GET", &cookie, "");
        assert!(page.contains(shown), "{path}: {page}");
    }

    let said = demo.interrupt();
    assert!(!said.contains("WARN") && !said.contains("error"), "{said}");
    assert_eq!(ezq(&url, &["queue", "list"]).code, 1);
    assert!(TcpStream::connect(base.strip_prefix("http://").unwrap()).is_err());
}
