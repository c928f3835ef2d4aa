//! A walk through every screen in a real browser, which also takes the screenshots of
//! docs/screenshots/ where `SCREENSHOTS` names a folder. docs/dashboard.md has the command.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use ezq::sqlx;
use ezq::testing::TestDatabase;
use ezq_ui::{Access, Dashboard, Secret, Server};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;
use tokio::net::TcpListener;

use crate::server::{Running, TOKEN};
use crate::shop::Shop;
use crate::skip;
use crate::stage::{application, bury, dead, operators, publish};

/// The name and the path of each screen; a shop adds those of single things.
const SCREENS: [(&str, &str); 20] = [
    ("overview", "/ops"),
    ("queues", "/ops/queues"),
    ("queue", "/ops/queues/payments"),
    ("messages", "/ops/queues/reports/messages"),
    ("errors", "/ops/queues/payments/errors"),
    ("dead-queues", "/ops/dead"),
    ("dead-letters", "/ops/queues/payments/dead?error=expired"),
    (
        "preview",
        "/ops/queues/payments/all/dead/redrive?error=expired",
    ),
    ("preview-move", "/ops/queues/invoices/all/ready/move"),
    ("operations", "/ops/operations"),
    ("audit", "/ops/audit"),
    ("schedules", "/ops/schedules"),
    ("consumers", "/ops/consumers"),
    ("subscriptions", "/ops/subscriptions?type=order.paid"),
    ("catalogue", "/ops/catalogue"),
    ("replays", "/ops/replays"),
    ("captures", "/ops/captures"),
    ("health", "/ops/health"),
    ("empty", "/ops/queues/shipping/dead"),
    ("missing", "/ops/queues/paymnets"),
];
/// Those of which there is also a picture of a narrow page.
const NARROW: [&str; 3] = ["overview", "dead-letters", "message"];
/// The tallest picture.
const TALLEST: i64 = 1100;

/// Chromium runs in a group of its own, and outlives its driver. It ends here when the standard input of the
/// script closes, which happens when the test ends, however it ends. Its folder names it among all processes.
const SCRIPT: &str = r#"
"$1" --port=0 &
read -r _
kill -9 $!
for process in /proc/[0-9]*; do
    if tr '\0' '\n' <"$process/cmdline" 2>/dev/null | grep -qxF -e "--user-data-dir=$2"; then
        kill -9 "${process#/proc/}"
    fi
done
rm -rf "$2"
"#;

/// The driver of a browser. The browser ends with this value.
struct Driver {
    process: Child,
    port: u16,
    folder: PathBuf,
}

impl Driver {
    fn start(program: &str) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("ezq-browser-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let mut process = Command::new("sh")
            .args(["-c", SCRIPT, "sh", program])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next().unwrap().unwrap();
            let port = line.split("on port ").nth(1);
            let port = port.and_then(|port| port.trim_end_matches('.').parse::<u16>().ok());
            if let Some(port) = port.filter(|port| *port > 0) {
                break port;
            }
        };
        // Its later lines are read too, or it would wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            port,
            folder,
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// A browser, which ends with this value.
struct Browser {
    client: Client,
    driver: Driver,
}

impl Browser {
    /// `None` where the machine has no Chromium.
    async fn start(test: &str) -> Option<Self> {
        let chromium = skip::program("chromium", "chromium", test)?;
        let driver = skip::program("chromedriver", "chromium-driver", test)?;
        let driver = Driver::start(driver.to_str().unwrap());

        let folder = format!("--user-data-dir={}", driver.folder.display());
        let options = json!({
            "binary": chromium,
            "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--hide-scrollbars", folder,
            ],
        });
        let logged = json!({"browser": "ALL"});
        let wanted = [
            ("goog:chromeOptions".to_owned(), options),
            ("goog:loggingPrefs".to_owned(), logged),
        ];
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(wanted.into_iter().collect())
            .connect(&format!("http://127.0.0.1:{}", driver.port))
            .await
            .unwrap();
        Some(Self { client, driver })
    }

    async fn go(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// Waits for a page with this heading.
    async fn arrives(&self, heading: &str) {
        self.shows(&format!("//h1[text()='{heading}']")).await;
    }

    /// Waits for an element. A search that a navigation cuts short is no failure.
    async fn shows(&self, xpath: &str) {
        let found = async {
            while self.client.find(Locator::XPath(xpath)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let limit = Duration::from_secs(30);
        let in_time = tokio::time::timeout(limit, found).await;
        in_time.unwrap_or_else(|_| panic!("{xpath} is not shown"));
    }

    async fn click(&self, what: Locator<'_>) {
        let found = self.client.find(what).await.unwrap();
        found.click().await.unwrap();
    }

    async fn type_secret(&self, secret: &str) {
        let field = Locator::Css("input[name=secret]");
        let field = self.client.find(field).await.unwrap();
        field.send_keys(&format!("{secret}\u{e007}")).await.unwrap();
    }

    /// Makes the page this wide, and as tall as its content.
    async fn resize(&self, width: u32) {
        self.client.set_window_size(width, 600).await.unwrap();
        let height = self
            .number("return document.documentElement.scrollHeight")
            .await;
        // The window has a frame around the page.
        let frame = self
            .number("return window.outerHeight - window.innerHeight")
            .await;
        let height = u32::try_from(height.min(TALLEST) + frame).unwrap();
        self.client.set_window_size(width, height).await.unwrap();
    }

    async fn number(&self, script: &str) -> i64 {
        let number = self.client.execute(script, Vec::new()).await.unwrap();
        number.as_i64().unwrap()
    }

    /// Takes a picture of the page as it is, where pictures are wanted.
    async fn pictures(&self, name: &str) {
        let Some(folder) = std::env::var_os("SCREENSHOTS").map(PathBuf::from) else {
            return;
        };
        for theme in ["light", "dark"] {
            let set = "document.documentElement.dataset.theme = arguments[0]";
            self.client.execute(set, vec![json!(theme)]).await.unwrap();
            self.resize(1280).await;
            self.picture(&folder, &format!("{name}-{theme}")).await;
        }
    }

    async fn picture(&self, folder: &Path, name: &str) {
        let png = self.client.screenshot().await.unwrap();
        std::fs::write(folder.join(format!("{name}.png")), png).unwrap();
    }
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

#[ezq::test]
async fn every_screen_fits_and_runs_without_an_error(database: TestDatabase) {
    let test = "every_screen_fits_and_runs_without_an_error";
    let Some(browser) = Browser::start(test).await else {
        return;
    };
    let pictures = std::env::var_os("SCREENSHOTS").map(PathBuf::from);
    let shop = Shop::open(&database).await;
    let dashboard = Dashboard::new(shop.ezq.clone(), operators());
    let base = serve(Router::new().nest("/ops", dashboard.router())).await;

    // The database is examined while the others are shown, and the lines of five minutes grow.
    browser.go(&format!("{base}/ops/health")).await;
    browser
        .shows("//summary[contains(., 'checks found nothing')]")
        .await;
    if pictures.is_some() {
        browser.go(&format!("{base}/ops")).await;
        tokio::time::sleep(Duration::from_secs(150)).await;
    }
    let screens = SCREENS.map(|(name, path)| (name, path.to_owned()));
    for (name, path) in screens.iter().chain(&shop.screens) {
        browser.go(&format!("{base}{path}")).await;
        let heading = browser.client.find(Locator::Css("h1")).await.unwrap();
        assert!(!heading.text().await.unwrap().is_empty(), "{name}");
        for (width, suffix) in [(1280, ""), (390, "-narrow")] {
            browser.resize(width).await;
            let wide = "return document.documentElement.scrollWidth - window.innerWidth";
            let over = browser.number(wide).await;
            assert!(over <= 0, "{name} at {width}: {over} px too wide");
            let Some(folder) = &pictures else { continue };
            if width < 1280 && !NARROW.contains(name) {
                continue;
            }
            for theme in ["light", "dark"] {
                let set = "document.documentElement.dataset.theme = arguments[0]";
                let theme_is = vec![json!(theme)];
                browser.client.execute(set, theme_is).await.unwrap();
                browser
                    .picture(folder, &format!("{name}-{theme}{suffix}"))
                    .await;
            }
        }
    }
    browser.client.clone().close().await.unwrap();
    shop.close().await;
}

#[ezq::test]
async fn many_dead_letters_are_redriven_by_a_filter(database: TestDatabase) {
    let test = "many_dead_letters_are_redriven_by_a_filter";
    let Some(browser) = Browser::start(test).await else {
        return;
    };
    bury(&database, 1, "{}").await;
    let ezq = application(&database).await;
    // Many copies of one that died in earnest.
    sqlx::raw_sql(
        "INSERT INTO pgmq.q_orders_dlq (vt, message, headers)
         SELECT vt, message, headers FROM pgmq.q_orders_dlq, generate_series(1, 9999)",
    )
    .execute(ezq.pool())
    .await
    .unwrap();

    let dashboard = Dashboard::new(ezq.clone(), operators());
    let base = serve(Router::new().nest("/ops", dashboard.router())).await;
    browser
        .go(&format!("{base}/ops/queues/orders/dead?type=order.paid"))
        .await;
    browser.click(Locator::LinkText("Redrive…")).await;
    let preview = browser.client.find(Locator::Css(".preview")).await.unwrap();
    let said = preview.text().await.unwrap();
    // A busy machine may not count all of them in the time of a page.
    if said.starts_with("10,000 dead letters of orders. Filter: type order.paid") {
        browser.click(Locator::Css("main form button")).await;
    } else {
        assert!(said.starts_with("Counting takes longer"), "{said}");
        browser.click(Locator::Css("input[name=uncounted]")).await;
        browser.click(Locator::Css("main form button")).await;
    }

    // Its page follows it to the end by itself.
    browser.arrives("Redrive dead letters of orders ").await;
    browser.shows("//dd[text()='10,000']").await;
    let moved = async {
        while dead(&ezq).await > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), moved)
        .await
        .unwrap();
    assert_eq!(
        ezq.queues().get("orders").await.unwrap().ready.value,
        10_000
    );
    browser.client.clone().close().await.unwrap();
}

#[ezq::test]
async fn the_buttons_of_a_viewer_are_grey_and_a_crafted_post_is_refused(database: TestDatabase) {
    let test = "the_buttons_of_a_viewer_are_grey_and_a_crafted_post_is_refused";
    let Some(browser) = Browser::start(test).await else {
        return;
    };
    bury(&database, 2, "{}").await;
    let ezq = application(&database).await;
    let dashboard = Dashboard::new(ezq.clone(), Access::read_only());
    let base = serve(Router::new().nest("/ops", dashboard.router())).await;
    for page in ["dead", "errors", "all/dead/discard"] {
        browser
            .go(&format!("{base}/ops/queues/orders/{page}"))
            .await;
        let can_act = "return document.querySelectorAll(
            'main form[method=post] button:enabled, main a.button:not([href*=\"/dead\"])').length";
        assert_eq!(browser.number(can_act).await, 0, "{page}");
        let grey = "return document.querySelectorAll('main button:disabled').length";
        assert!(browser.number(grey).await > 0, "{page}");
    }

    // From a page of the dashboard itself, as a browser sends it.
    let crafted = "const done = arguments[arguments.length - 1];
        fetch('/ops/queues/orders/all/dead/discard',
              {method: 'POST', body: new URLSearchParams({last: '99'})})
          .then((answer) => done(answer.status), (error) => done(String(error)));";
    let status = browser.client.execute_async(crafted, Vec::new()).await;
    assert_eq!(status.unwrap(), json!(403));
    assert_eq!(dead(&ezq).await, 2);
    assert!(ezq.operations().list(10).await.unwrap().is_empty());
    browser.client.clone().close().await.unwrap();
}

#[ezq::test]
async fn every_link_and_button_is_reached_by_the_keyboard(database: TestDatabase) {
    let test = "every_link_and_button_is_reached_by_the_keyboard";
    let Some(browser) = Browser::start(test).await else {
        return;
    };
    bury(&database, 2, "{}").await;
    let ezq = application(&database).await;
    let dashboard = Dashboard::new(ezq.clone(), operators());
    let base = serve(Router::new().nest("/ops", dashboard.router())).await;
    for path in ["/ops", "/ops/queues/orders", "/ops/queues/orders/dead"] {
        browser.go(&format!("{base}{path}")).await;
        // Hidden pages are not refreshed, so this one stays as it is.
        let reachable = "Object.defineProperty(document, 'hidden', {value: true});
            const all = document.querySelectorAll('a[href], button, input, select, summary');
            window.shown = [...all].filter((one) => one.type !== 'hidden' && one.checkVisibility());
            return shown.length;";
        let wanted = browser.number(reachable).await;
        assert!(wanted > 15, "{path}: {wanted}");

        // In the order in which they stand, and each with a mark that shows where one is.
        for place in 0..wanted {
            let focused = browser.client.active_element().await.unwrap();
            focused.send_keys("\u{e004}").await.unwrap();
            let at = "const one = document.activeElement;
                const has_outline = getComputedStyle(one).outlineStyle !== 'none';
                return has_outline ? shown.indexOf(one) : -2;";
            assert_eq!(browser.number(at).await, place, "{path}");
        }
    }
    browser.client.clone().close().await.unwrap();
}

#[ezq::test]
async fn an_event_is_copied_as_json_with_every_digit(database: TestDatabase) {
    let test = "an_event_is_copied_as_json_with_every_digit";
    let Some(browser) = Browser::start(test).await else {
        return;
    };
    bury(&database, 1, "12345678901234567890").await;
    let dashboard = Dashboard::new(application(&database).await, operators());
    let base = serve(Router::new().nest("/ops", dashboard.router())).await;
    browser
        .go(&format!("{base}/ops/queues/orders/dead/1"))
        .await;

    // The clipboard takes it as well: the button says so only then.
    let listen = "const write = navigator.clipboard.writeText.bind(navigator.clipboard);
        navigator.clipboard.writeText = (text) => { window.copied = text; return write(text); };";
    browser.client.execute(listen, Vec::new()).await.unwrap();
    browser.click(Locator::Css("[data-copy]")).await;
    browser.shows("//button[text()='Copied']").await;
    let copied = browser.client.execute("return copied", Vec::new()).await;
    let copied = copied.unwrap();
    let text = copied.as_str().unwrap();
    assert!(text.contains("12345678901234567890"), "{text}");
    let _: serde_json::Value = serde_json::from_str(text).unwrap();
    browser.client.clone().close().await.unwrap();
}

#[ezq::test]
async fn a_page_is_refreshed_only_while_somebody_looks_and_wants_it(database: TestDatabase) {
    let test = "a_page_is_refreshed_only_while_somebody_looks_and_wants_it";
    let Some(browser) = Browser::start(test).await else {
        return;
    };
    let ezq = application(&database).await;
    publish(&ezq, "orders", "order.paid", "1").await;
    let dashboard = Dashboard::new(ezq.clone(), operators());
    let dashboard = dashboard.refresh(Duration::from_millis(100));
    let base = serve(Router::new().nest("/ops", dashboard.router())).await;
    browser.go(&format!("{base}/ops/queues")).await;
    let execute = async |script: &str| {
        let answer = browser.client.execute(script, Vec::new()).await;
        answer.unwrap()
    };
    // Whether the refreshes since the last question were kept back.
    execute(
        "window.seen = [];
         document.addEventListener('htmx:before:request', (event) => seen.push(event.defaultPrevented));",
    )
    .await;
    let refresh = "seen.length = 0;
        document.getElementById('poll').dispatchEvent(new Event('ezq:refresh'));
        return seen;";
    let set_hidden =
        "Object.defineProperty(document, 'hidden', {value: HIDDEN, configurable: true});";

    assert_eq!(execute(refresh).await, json!([false]));
    browser.click(Locator::Id("pause")).await;
    assert_eq!(execute(refresh).await, json!([true]));
    browser.click(Locator::Id("pause")).await;
    assert_eq!(execute(refresh).await, json!([false]));
    execute(&set_hidden.replace("HIDDEN", "true")).await;
    assert_eq!(execute(refresh).await, json!([true]));

    // Who comes back sees at once what is new, without having asked.
    publish(&ezq, "mails", "mail.wanted", "1").await;
    execute(&set_hidden.replace("HIDDEN", "false")).await;
    execute("document.dispatchEvent(new Event('visibilitychange'));").await;
    browser.shows("//main//a[text()='mails']").await;

    // The theme is kept for the next page.
    let theme = "return document.documentElement.dataset.theme ?? ''";
    let before = execute(theme).await;
    browser.click(Locator::Id("theme")).await;
    let chosen = execute(theme).await;
    assert!(
        chosen != before && (chosen == "dark" || chosen == "light"),
        "{chosen}"
    );
    browser.go(&format!("{base}/ops/dead")).await;
    assert_eq!(execute(theme).await, chosen);
    browser.client.clone().close().await.unwrap();
}

#[ezq::test]
async fn one_signs_in_by_the_link_or_with_the_token(database: TestDatabase) {
    let test = "one_signs_in_by_the_link_or_with_the_token";
    let Some(browser) = Browser::start(test).await else {
        return;
    };
    let ezq = application(&database).await;
    let by_link = Server::new(Dashboard::new(ezq.clone(), operators()));
    let by_link = Running::start(by_link.bind().await.unwrap());
    let link = by_link.link.clone().unwrap();
    browser.go(&link).await;
    browser.arrives("Overview").await;

    // The session ends behind the back of the page, which asks to sign in at its next refresh.
    let sign_out = "await fetch('/logout', {method: 'POST'});
        document.getElementById('poll').dispatchEvent(new Event('ezq:refresh'));";
    browser
        .client
        .execute(&format!("(async () => {{ {sign_out} }})()"), Vec::new())
        .await
        .unwrap();
    browser.arrives("Sign in to ezq").await;
    browser.go(&link).await;

    let by_token = Server::new(Dashboard::new(ezq.clone(), Access::forbidden()))
        .secret(Secret::token(TOKEN).unwrap());
    let by_token = Running::start(by_token.bind().await.unwrap());
    browser
        .go(&format!("http://{}/queues", by_token.address))
        .await;
    browser.pictures("login").await;
    browser.type_secret("another").await;
    browser
        .shows("//p[@class='failure' and contains(., 'not the token')]")
        .await;
    browser.type_secret(TOKEN).await;
    browser.arrives("Not allowed").await;
    let place = browser.client.current_url().await.unwrap();
    assert_eq!(place.path(), "/queues");
    browser.client.clone().close().await.unwrap();
}

/// Whether a process runs that has this argument.
fn runs(argument: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap();
    let mut files = processes.map(|process| process.unwrap().path().join("cmdline"));
    files.any(|file| {
        // One that ends meanwhile has no file any more.
        let line = std::fs::read_to_string(file).unwrap_or_default();
        line.split('\0').any(|found| found == argument)
    })
}

#[tokio::test]
async fn a_browser_ends_with_its_test_also_when_that_fails() {
    let test = "browser::a_browser_ends_with_its_test_also_when_that_fails";
    let failing = tokio::spawn(async move {
        let browser = Browser::start(test).await?;
        let folder = format!("--user-data-dir={}", browser.driver.folder.display());
        assert!(runs(&folder), "{folder}");
        std::panic::panic_any(folder);
        #[expect(unreachable_code, reason = "it says what the task returns")]
        Some(())
    });
    let Err(failed) = failing.await else {
        return;
    };
    let folder = failed.into_panic().downcast::<String>().unwrap();
    let gone = async {
        while runs(&folder) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, gone).await.unwrap();
}
