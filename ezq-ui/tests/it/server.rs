//! The dashboard's own server: who gets in, how, and that nobody else sees anything.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use ezq::testing::TestDatabase;
use ezq_ui::{Access, BoundServer, Dashboard, Secret, Server, ServerErrorKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::stage::{application, bury, dead, operators};

pub(crate) const TOKEN: &str = "a-token-that-nobody-guesses";

/// A server that runs, and what stops it.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) link: Option<String>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), ezq_ui::ServerError>>,
}

impl Running {
    pub(crate) fn start(server: BoundServer) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self {
            address: server.address(),
            link: server.link().map(str::to_owned),
            stop,
            served: tokio::spawn(server.serve(async move {
                let _ = stopped.await;
            })),
        }
    }

    /// The path of the link.
    fn entry(&self) -> String {
        let link = self.link.as_ref().unwrap();
        let path = link.strip_prefix(&format!("http://{}", self.address));
        path.unwrap().to_owned()
    }

    async fn get(&self, path: &str, headers: &[&str]) -> Answer {
        self.send("GET", path, headers, "").await
    }

    /// Sends a form as a page of the dashboard does.
    async fn post(&self, path: &str, form: &str, headers: &[&str]) -> Answer {
        let mut all = vec![
            "sec-fetch-site: same-origin",
            "content-type: application/x-www-form-urlencoded",
        ];
        all.extend(headers);
        self.send("POST", path, &all, form).await
    }

    async fn send(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let host = format!("host: {}", self.address);
        let mut lines = vec![format!("{method} {path} HTTP/1.1")];
        if !headers.iter().any(|header| header.starts_with("host:")) {
            lines.push(host);
        }
        lines.extend(headers.iter().map(|header| (*header).to_owned()));
        lines.push(format!("content-length: {}", body.len()));
        lines.push("connection: close\r\n\r\n".to_owned());

        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = lines.join("\r\n") + body;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(found, _)| *found == name);
        values.next().map(|(_, value)| value)
    }

    /// The header by which a browser sends the cookie back that it was given.
    fn cookie(&self) -> String {
        let given = self.header("set-cookie").unwrap();
        format!("cookie: theme=x; {}", given.split(';').next().unwrap())
    }
}

/// A file that only its owner can read, removed with the value.
struct SecretFile(PathBuf);

impl SecretFile {
    fn new(test: &str, text: &str) -> Self {
        let name = format!("ezq-ui-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        let file = Self(path);
        file.mode(0o600);
        file
    }

    fn mode(&self, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&self.0, fs::Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        // It is in a folder of temporary files.
        let _ = fs::remove_file(&self.0);
    }
}

async fn start(database: &TestDatabase, access: Access, secret: Option<Secret>) -> Running {
    let ezq = application(database).await;
    let mut server = Server::new(Dashboard::new(ezq, access).hosts(["ops.example"]));
    if let Some(secret) = secret {
        server = server.secret(secret);
    }
    Running::start(server.bind().await.unwrap())
}

#[ezq::test]
async fn the_link_lets_in_one_browser(database: TestDatabase) {
    let server = start(&database, operators(), None).await;
    assert!(server.address.ip().is_loopback());

    for path in ["/", "/queues", "/nowhere", "/queues/orders/messages"] {
        let stranger = server.get(path, &["cookie: ezq_session=x"]).await;
        assert_eq!(stranger.status, 401, "{path}");
        assert!(stranger.body.contains("Open the link"), "{}", stranger.body);
    }

    let opened = server.get(&server.entry(), &[]).await;
    assert_eq!(opened.status, 200);
    assert_eq!(opened.header("referrer-policy"), Some("no-referrer"));
    assert!(
        opened.body.contains("content=\"0; url=/\""),
        "{}",
        opened.body
    );
    let given = opened.header("set-cookie").unwrap();
    let name = format!("ezq_session_{}=", server.address.port());
    assert!(given.starts_with(&name), "{given}");
    for part in [
        "; HttpOnly",
        "; SameSite=Strict",
        "; Path=/",
        "; Max-Age=43200",
    ] {
        assert!(given.contains(part), "{given}");
    }
    assert!(!given.contains("Secure"), "{given}");

    let cookie = opened.cookie();
    let page = server.get("/", &[&cookie]).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("Sign out"), "{}", page.body);

    let again = server.get(&server.entry(), &[]).await;
    assert_eq!(again.status, 401);
    assert!(again.header("set-cookie").is_none());
    assert!(
        again.body.contains("does not work any more"),
        "{}",
        again.body
    );
}

#[ezq::test]
async fn what_only_looks_at_the_link_does_not_use_it_up(database: TestDatabase) {
    let server = start(&database, operators(), None).await;
    let entry = server.entry();
    let ahead = server
        .get(&entry, &["sec-purpose: prefetch;prerender"])
        .await;
    assert_eq!(ahead.status, 503);
    let head = server.send("HEAD", &entry, &[], "").await;
    assert_eq!(head.status, 503);
    let named = server.get(&entry, &["host: evil.example"]).await;
    assert_eq!(named.status, 421);

    let opened = server.get(&entry, &["x-forwarded-proto: https"]).await;
    assert!(opened.header("set-cookie").unwrap().contains("; Secure"));
}

#[ezq::test]
async fn other_machines_need_a_secret(database: TestDatabase) {
    let ezq = application(&database).await;
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let server = Server::new(Dashboard::new(ezq.clone(), operators()));
        let refused = server.listen(address.parse().unwrap()).bind().await;
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ServerErrorKind::SecretMissing, "{address}");
        assert!(error.to_string().contains("give a token"), "{error}");
    }

    let server = Server::new(Dashboard::new(ezq, operators()))
        .listen("0.0.0.0:0".parse().unwrap())
        .secret(Secret::token(TOKEN).unwrap());
    let server = server.bind().await.unwrap();
    assert_eq!(server.link(), None);
}

#[ezq::test]
async fn the_token_opens_a_session_and_few_may_be_tried(database: TestDatabase) {
    let secret = Secret::token(TOKEN).unwrap();
    assert!(!format!("{secret:?}").contains(TOKEN));
    let server = start(&database, operators(), Some(secret)).await;

    let asked = server.get("/queues?x=1", &[]).await;
    assert_eq!(asked.status, 401);
    assert!(asked.body.contains("name=\"to\" value=\"/queues?x=1\""));

    let form = format!("secret={TOKEN}&to=%2Fqueues%3Fx%3D1");
    let opened = server.post("/login", &form, &[]).await;
    assert_eq!(opened.status, 303);
    assert_eq!(opened.header("location"), Some("/queues?x=1"));
    let cookie = opened.cookie();

    let away = format!("secret={TOKEN}&to=%2F%2Fevil.example");
    let opened = server.post("/login", &away, &[]).await;
    assert_eq!(opened.header("location"), Some("/"));

    for _ in 0..5 {
        let wrong = server
            .post("/login", "secret=a-token-that-somebody-guesses", &[])
            .await;
        assert_eq!(wrong.status, 401);
        assert!(wrong.header("set-cookie").is_none());
        assert!(wrong.body.contains("This is not the token."));
    }
    let refused = server.post("/login", &form, &[]).await;
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");

    // Who is in stays in.
    assert_eq!(server.get("/", &[&cookie]).await.status, 200);
}

#[ezq::test]
async fn a_password_is_checked_by_its_hash(database: TestDatabase) {
    let password = "correct horse battery staple";
    let hash = Secret::hash_password(password).unwrap();
    assert!(hash.starts_with("$argon2id$"), "{hash}");
    assert_ne!(hash, Secret::hash_password(password).unwrap());
    let short = Secret::hash_password("1234567").unwrap_err();
    assert_eq!(short.kind(), ServerErrorKind::SecretWeak);

    let file = SecretFile::new("password", &format!("{hash}\n"));
    let secret = Secret::password_file(&file.0).unwrap();
    let server = start(&database, operators(), Some(secret)).await;
    let wrong = server.post("/login", "secret=wrong", &[]).await;
    assert_eq!(wrong.status, 401);
    let form = format!("secret={}", password.replace(' ', "+"));
    let opened = server.post("/login", &form, &[]).await;
    assert_eq!(opened.status, 303, "{}", opened.body);
    let page = server.get("/", &[&opened.cookie()]).await;
    assert_eq!(page.status, 200);
}

#[test]
fn the_file_of_a_secret_is_its_owners() {
    let file = SecretFile::new("modes", TOKEN);
    for mode in [0o644, 0o622, 0o660, 0o601] {
        file.mode(mode);
        let error = Secret::token_file(&file.0).unwrap_err();
        assert_eq!(error.kind(), ServerErrorKind::FileOpenToOthers, "{mode:o}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    for mode in [0o600, 0o400, 0o440] {
        file.mode(mode);
        assert!(Secret::token_file(&file.0).is_ok(), "{mode:o}");
    }

    // Whoever mistakes a password for its hash does not read it in a log.
    let error = Secret::password_file(&file.0).unwrap_err();
    assert_eq!(error.kind(), ServerErrorKind::PasswordInvalid);
    assert!(!error.to_string().contains(TOKEN), "{error}");

    let short = SecretFile::new("short", "0123456789abcde\n");
    let error = Secret::token_file(&short.0).unwrap_err();
    assert_eq!(error.kind(), ServerErrorKind::SecretWeak);
    let missing = Secret::token_file("/nowhere/at/all").unwrap_err();
    assert_eq!(missing.kind(), ServerErrorKind::FileUnreadable);
}

#[ezq::test]
async fn a_foreign_name_is_answered_nothing(database: TestDatabase) {
    let server = start(&database, operators(), None).await;
    let cookie = server.get(&server.entry(), &[]).await.cookie();
    for (host, status) in [
        ("host: evil.example", 421),
        ("host: localhost.evil.example:80", 421),
        ("host: localhost:80", 200),
        ("host: ops.example", 200),
    ] {
        for path in ["/", "/login?to=/nowhere"] {
            let answer = server.get(path, &[host, &cookie]).await;
            let expected = if path == "/" || status == 421 {
                status
            } else {
                303
            };
            assert_eq!(answer.status, expected, "{host} {path}");
            assert!(answer.header("content-security-policy").is_some());
        }
    }
}

#[ezq::test]
async fn only_who_is_in_may_act_and_only_as_the_policy_says(database: TestDatabase) {
    bury(&database, 1, "{}").await;
    let ezq = application(&database).await;
    let action = "/queues/orders/all/dead/discard?last=99";

    let server = start(&database, operators(), None).await;
    assert_eq!(server.post(action, "", &[]).await.status, 401);
    let cookie = server.get(&server.entry(), &[]).await.cookie();
    let forged = [cookie.as_str(), "sec-fetch-site: cross-site"];
    assert_eq!(server.send("POST", action, &forged, "").await.status, 403);

    let reader = start(&database, Access::read_only(), None).await;
    let read = reader.get(&reader.entry(), &[]).await.cookie();
    assert_eq!(reader.post(action, "", &[&read]).await.status, 403);
    // A session is one of its own server only.
    assert_eq!(reader.get("/", &[&cookie]).await.status, 401);
    assert_eq!(dead(&ezq).await, 1);

    let form = "reason=x";
    let pause = server.post("/queues/orders/pause", form, &[&cookie]).await;
    assert_eq!(pause.status, 303, "{}", pause.body);
    assert_eq!(ezq.queues().pauses().await.unwrap().len(), 1);
}

#[ezq::test]
async fn a_click_on_another_site_goes_on_by_itself(database: TestDatabase) {
    let server = start(&database, operators(), None).await;
    let cookie = server.get(&server.entry(), &[]).await.cookie();
    let click = server
        .get("/queues?x='a'", &["sec-fetch-site: cross-site"])
        .await;
    assert_eq!(click.status, 200);
    let next = "/login?to=%2Fqueues%3Fx%3D%27a%27";
    assert!(
        click.body.contains(&format!("url={next}\"")),
        "{}",
        click.body
    );
    let back = server.get(next, &[&cookie]).await;
    assert_eq!(back.header("location"), Some("/queues?x='a'"));
}

#[ezq::test]
async fn one_who_signs_out_is_out(database: TestDatabase) {
    let server = start(&database, operators(), None).await;
    let cookie = server.get(&server.entry(), &[]).await.cookie();
    let out = server.post("/logout", "", &[&cookie]).await;
    assert_eq!(out.status, 303);
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(server.get("/", &[&cookie]).await.status, 401);
}

#[ezq::test]
async fn a_stop_ends_the_server_with_connections_open(database: TestDatabase) {
    let server = start(&database, operators(), None).await;
    // A browser keeps its connection, and this one never ends its request.
    let mut open = TcpStream::connect(server.address).await.unwrap();
    open.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    server.stop.send(()).unwrap();
    server.served.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
