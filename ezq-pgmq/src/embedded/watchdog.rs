//! The watchdog: a shell that owns the server, and outlives this process until it has cleaned up.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use ezq_core::Result;

use super::error::failure;

/// Owns the server and its folder. It makes the folder itself, so that a killed process never
/// leaves one behind. It reads one word a line, and cleans up when the pipe closes. `wait` works
/// because the server is its child. An answer that nobody reads any more must not end it.
pub(super) const SCRIPT: &str = r#"
folder=$1; initdb=$2; shift 2
pid= made=
umask 077
# What runs in the background has another standard input.
exec 3<&0
trap : PIPE
stop() { [ -n "$pid" ] && { kill -"$1" "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; }; pid=; }
while read -r word; do
  case $word in
    make) mkdir "$folder" && made=1 && cd "$folder" && echo made || echo refused ;;
    init)
      "$initdb" -D "$folder/data" --username=postgres --auth=trust --encoding=UTF8 --locale=C \
        --no-sync </dev/null 3<&- >"$folder/log" 2>&1 & pid=$!
      # If the pipe closes before the answer, nobody waits for the data any more.
      { read -r _ || kill -KILL "$pid"; } <&3 & closed=$!
      wait "$pid"; status=$? pid=
      # Before the answer, or it would take the word that follows.
      kill "$closed"; wait "$closed"
      [ "$status" = 0 ] && echo initialised || echo refused ;;
    start) "$@" </dev/null 3<&- >>"$folder/log" 2>&1 & pid=$!; echo started ;;
    fast) stop INT; echo stopped ;;
    immediate) stop QUIT; echo stopped ;;
  esac
done
if [ -n "$pid" ]; then ( sleep 3; kill -KILL "$pid" ) >/dev/null 2>&1 & guard=$!; fi
stop QUIT
[ -n "$guard" ] && kill "$guard" 2>/dev/null
[ -n "$made" ] || exit 0
cd /
# What a server that had to be killed leaves running ends by itself, and may write until then.
tries=0
until rm -rf "$folder" || [ "$tries" -ge 10 ]; do tries=$((tries + 1)); sleep 1; done
"#;

#[derive(Debug)]
pub(super) struct Watchdog {
    shell: Child,
    // `None` only while it is dropped: closing it ends the shell.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Watchdog {
    pub(super) fn spawn(mut shell: Command) -> Result<Self> {
        let gone = || failure("cannot run /bin/sh, which keeps the development Postgres");
        let mut shell = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| gone().with_source(error))?;
        let orders = shell.stdin.take();
        let answers = shell.stdout.take().ok_or_else(gone)?;

        Ok(Self {
            shell,
            orders,
            answers: BufReader::new(answers),
        })
    }

    pub(super) fn order(&mut self, word: &str, answer: &str) -> Result<()> {
        let gone = || failure("the keeper of the development Postgres is gone");
        let orders = self.orders.as_mut().ok_or_else(gone)?;
        writeln!(orders, "{word}").map_err(|error| gone().with_source(error))?;
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .map_err(|error| gone().with_source(error))?;
        if line.trim_end() == answer {
            return Ok(());
        }
        Err(gone())
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.orders = None;
        // Waits, so that nothing is left once the value is dropped. The shell ends within seconds.
        let _ = self.shell.wait();
    }
}
