//! The development Postgres of a process is gone within seconds, however the process ends.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ezq::pgmq::embedded::EmbeddedPostgres;

use crate::child::{Process, Role, say};
use crate::database;

const LIMIT: Duration = Duration::from_secs(5);

/// What the child does: a server that only the process's end stops, then that end.
pub(crate) async fn serve(ending: String) {
    let server = EmbeddedPostgres::shared().await.unwrap();
    let url = server.url();
    let (_, rest) = url.split_once("host=").unwrap();
    say(&format!("folder {}", rest.split('&').next().unwrap()));
    match ending.as_str() {
        "return" => {}
        "exit" => std::process::exit(7),
        "panic" => panic!("as told"),
        "abort" => std::process::abort(),
        _ => std::future::pending().await,
    }
}

#[tokio::test]
async fn nothing_is_left_however_the_process_ends() {
    for ending in ["return", "exit", "panic", "abort", "TERM", "INT", "HUP", "KILL"] {
        let mut child = Process::start_in(&std::env::temp_dir(), &Role::Server);
        child.tell(ending).await;
        let folder = PathBuf::from(child.hear("folder").await);
        let mut processes = Vec::new();
        if ending.chars().all(char::is_uppercase) {
            processes = processes_of(&folder);
            assert!(folder.exists() && processes.len() > 2, "{ending}: {processes:?}");
            child.signal(ending).await;
        }
        child.end().await;
        let began = Instant::now();
        while folder.exists() || processes.iter().any(|pid| runs(*pid)) {
            assert!(began.elapsed() < LIMIT, "{ending}: {} is left", folder.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(processes_of(&folder).is_empty(), "{ending}: {:?}", processes_of(&folder));
        println!("{ending}: gone after {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn nothing_is_left_when_the_process_is_killed_while_its_server_starts() {
    // From the first file to the first connection.
    for pause in [0, 5, 50, 200, 400] {
        let folder = database::unique("leftovers").to_string();
        let temporary = std::env::temp_dir().join(format!("{folder}-{}", std::process::id()));
        std::fs::create_dir(&temporary).unwrap();
        // Also for the account that the server runs under.
        std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o777)).unwrap();
        let mut child = Process::start_in(&temporary, &Role::Server);
        child.tell("wait").await;
        let began = Instant::now();
        while is_empty(&temporary) {
            assert!(began.elapsed() < database::CEILING, "no server starts");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Not a wait for anything: each case is another moment.
        tokio::time::sleep(Duration::from_millis(pause)).await;
        child.kill().await;
        let began = Instant::now();
        while !is_empty(&temporary) || !processes_of(&temporary).is_empty() {
            assert!(began.elapsed() < LIMIT, "left: {:?}", processes_of(&temporary));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("killed {pause} ms after the first file: gone after {:?}", began.elapsed());
        std::fs::remove_dir(&temporary).unwrap();
    }
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

/// The shell and the server that name the folder, and the server's own processes.
fn processes_of(folder: &Path) -> Vec<u32> {
    let listing = std::process::Command::new("ps")
        .args(["-A", "-ww", "-o", "pid=,ppid=,stat=,args="])
        .output()
        .expect("`ps` runs");
    let text = String::from_utf8_lossy(&listing.stdout).into_owned();
    let processes: Vec<(u32, u32, &str)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (pid, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            (!words.next()?.starts_with('Z')).then_some((pid, parent, line))
        })
        .collect();
    let name = folder.file_name().unwrap().to_str().unwrap();
    let named: Vec<u32> = processes
        .iter()
        .filter(|(_, _, line)| line.contains(name))
        .map(|(pid, _, _)| *pid)
        .collect();
    let children = processes.iter().filter(|(_, parent, _)| named.contains(parent));
    let mut all: Vec<u32> = children.map(|(pid, _, _)| *pid).chain(named.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn runs(pid: u32) -> bool {
    let listing = std::process::Command::new("ps")
        .args(["-o", "stat=", "-p", &pid.to_string()])
        .output()
        .expect("`ps` runs");
    let state = String::from_utf8_lossy(&listing.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}
