//! The development Postgres of a process is gone within seconds, however the process ends.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ezq::pgmq::embedded::EmbeddedPostgres;

use crate::child::{Process, Role, say};
use crate::database;

const LIMIT: Duration = Duration::from_secs(30);

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
    for ending in ["return", "exit", "panic", "abort", "TERM", "KILL"] {
        let mut child = Process::start_in(&std::env::temp_dir(), &Role::Server);
        child.tell(ending).await;
        let folder = PathBuf::from(child.hear("folder").await);
        let mut processes = Vec::new();

        if ending.chars().all(char::is_uppercase) {
            processes = processes_of(&folder);
            assert!(folder.exists(), "{ending}");
            assert!(
                processes.len() > 2 || cfg!(not(target_os = "linux")),
                "{processes:?}"
            );
            child.signal(ending).await;
        }

        child.end().await;
        let began = Instant::now();
        let is_there = |pid: &u32| parent(*pid).is_some();

        while folder.exists() || processes.iter().any(is_there) || !processes_of(&folder).is_empty()
        {
            let left = processes_of(&folder);
            assert!(
                began.elapsed() < LIMIT,
                "{ending}: {} is left, {left:?}",
                folder.display()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }

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
            assert!(
                began.elapsed() < LIMIT,
                "left: {:?}",
                processes_of(&temporary)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }

        println!(
            "killed {pause} ms after the first file: gone after {:?}",
            began.elapsed()
        );
        std::fs::remove_dir(&temporary).unwrap();
    }
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

/// The shell and the server that name the folder, and the server's own processes; none where the
/// system does not list them as files.
fn processes_of(folder: &Path) -> Vec<u32> {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let processes = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((
                pid,
                parent(pid)?,
                std::fs::read(format!("/proc/{pid}/cmdline")).ok()?,
            ))
        });

    let processes: Vec<(u32, u32, Vec<u8>)> = processes.collect();
    let names = |line: &[u8]| String::from_utf8_lossy(line).contains(name);
    let named = |pid: u32| {
        processes
            .iter()
            .any(|(of, _, line)| *of == pid && names(line))
    };

    let ours = processes
        .iter()
        .filter(|(pid, parent, _)| named(*pid) || named(*parent));
    ours.map(|(pid, ..)| *pid).collect()
}

/// The parent of a process that runs: a zombie does not.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    if words.next()? == "Z" {
        None
    } else {
        words.next()?.parse().ok()
    }
}
