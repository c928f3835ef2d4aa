//! Running the program, and the events that it is run on.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ezq::handler::Handler;
use ezq::message::Retention;
use ezq::testing::{TestDatabase, TestEzq};
use ezq::{AnyEvent, Envelope, Ezq, HandlerError};
use serde_json::Value;

/// What the program printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The program, with nothing of the environment of the tests.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ezq"));
    command
        .args(arguments)
        .env_clear()
        .env("USER", "ada")
        .env("HOSTNAME", "box")
        .stdin(Stdio::null());
    command
}

/// Runs the program on a database.
pub(crate) fn ezq(url: &str, arguments: &[&str]) -> Ran {
    run(command(arguments).env("EZQ_DATABASE_URL", url))
}

pub(crate) fn run(command: &mut Command) -> Ran {
    let ended = command.output().unwrap();
    Ran {
        code: ended.status.code().unwrap(),
        stdout: String::from_utf8(ended.stdout).unwrap(),
        stderr: String::from_utf8(ended.stderr).unwrap(),
    }
}

impl Ran {
    /// Checks all that a run shows, with times and ids of events redacted.
    #[track_caller]
    pub(crate) fn is(&self, code: i32, stdout: &str, stderr: &str) {
        assert_eq!(redacted(&self.stderr), stderr, "stderr");
        assert_eq!(redacted(&self.stdout), stdout, "stdout");
        assert_eq!(self.code, code, "exit code");
    }

    /// Checks that a run failed with this code, printed no data, and said this.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, said: &str) {
        assert!(self.stderr.contains(said), "{self:?}");
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
    }

    /// The objects that a run with `--json` printed.
    #[track_caller]
    pub(crate) fn objects(&self) -> Vec<Value> {
        assert_eq!(self.code, 0, "{self:?}");
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// A text with `<time>` in place of each time, and `<uuid>` in place of each id of an event.
pub(crate) fn redacted(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = skip(rest, "0000-00-00T00:00:00") {
            let fraction = after.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
            rest = fraction.strip_prefix('Z').unwrap_or(fraction);
            kept.push_str("<time>");
        } else if let Some(after) = skip(rest, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx") {
            rest = after;
            kept.push_str("<uuid>");
        } else {
            rest = &rest[c.len_utf8()..];
            kept.push(c);
        }
    }
    kept
}

/// What follows a text of a form, in which `0` is a digit and `x` a hexadecimal one.
fn skip<'t>(text: &'t str, form: &str) -> Option<&'t str> {
    let head = text.get(..form.len())?;
    let fits = head.chars().zip(form.chars()).all(|(c, form)| match form {
        '0' => c.is_ascii_digit(),
        'x' => c.is_ascii_hexdigit(),
        _ => c == form,
    });
    fits.then(|| &text[form.len()..])
}

/// An application that creates queues and publishes to them.
pub(crate) async fn publisher(database: &TestDatabase) -> Ezq {
    let builder = database.builder().without_discovered_handlers();
    builder.connect().await.unwrap()
}

/// Publishes an event with this data.
pub(crate) async fn publish(ezq: &Ezq, queue: &str, event_type: &str, data: &str) {
    let event = Envelope::builder(event_type, "/shop").json(data).unwrap();
    let event = event.build().unwrap();
    ezq.publish_envelope(event).queue(queue).await.unwrap();
}

/// Makes dead letters of a queue, one for each type and error, in this order.
pub(crate) async fn bury(database: &TestDatabase, queue: &'static str, letters: &[(&str, &str)]) {
    let app: TestEzq = database
        .app(|app| {
            app.queue(queue)
                .retention(queue, Retention::Delete)
                .register(Handler::on("mail", refuse))
        })
        .await
        .unwrap();
    for (event_type, error) in letters {
        let data = serde_json::json!({"error": error, "order": 9_007_199_254_740_993_u64});
        publish(&app, queue, event_type, &data.to_string()).await;
        app.drain_queue(queue).await.unwrap();
    }
    app.close().await;
}

async fn refuse(event: AnyEvent) -> Result<(), HandlerError> {
    let data: Value = serde_json::from_str(event.data().unwrap_or("null")).unwrap();
    Err(HandlerError::fatal(
        data["error"].as_str().unwrap().to_owned(),
    ))
}

/// A file of this test, in a folder that is removed with the value.
pub(crate) struct TestFile {
    pub(crate) path: PathBuf,
}

impl TestFile {
    pub(crate) fn new(test: &str, text: &str) -> Self {
        let name = format!("ezq-cli-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Self { path }
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        // It is in a folder of temporary files.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Creates a queue.
pub(crate) async fn create(ezq: &Ezq, queue: &str) {
    let queue = ezq::QueueName::new(queue).unwrap();
    ezq.engine(&queue).ensure_queue(&queue).await.unwrap();
}
