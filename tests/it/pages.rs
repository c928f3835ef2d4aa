//! What the README and the pages under docs/ show: their SQL is run, the README's programs are the
//! examples (run by `examples`), and nothing that a reader needs is hidden.

use std::path::Path;
use std::process::Command;

use ezq::QueueName;

use crate::database::{connection, run, scalar, server, unique};

const PAGES: [&str; 3] = [
    "docs/production.md",
    "docs/migrating/django-broadcaster.md",
    "docs/migrating/celery-events.md",
];

fn read(page: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap()
}

/// The blocks of a page that are in a language, without what they are indented by.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = read(page);
    let mut blocks = Vec::new();
    let mut open = None;

    for line in text.lines() {
        let begins = || line.trim().strip_prefix("```")?.split(',').next();
        match (line.trim(), open.as_mut()) {
            (_, None) if begins() == Some(language) => open = Some(String::new()),
            ("```", Some(_)) => blocks.extend(open.take()),
            (line, Some(block)) => {
                *block += line;
                *block += "\n";
            }
            _ => {}
        }
    }

    assert!(open.is_none(), "{page}");
    blocks
}

#[tokio::test]
async fn the_sql_of_the_pages_runs() {
    let database = unique("pages");
    let role = unique("reader");
    let mut admin = connection(&server().await.url()).await;
    run(&mut admin, &format!("CREATE DATABASE {database}")).await;

    let url = server().await.database_url(database.as_str());
    ezq::Ezq::builder()
        .database_url(&url)
        .without_discovered_handlers()
        .connect()
        .await
        .unwrap();

    let mut own = connection(&url).await;
    let setup = ezq::pgmq::setup_sql(&[QueueName::new("orders").unwrap()], None).unwrap();

    // PGMQ stands, from SQL.
    run(
        &mut own,
        &setup.replace("create extension if not exists pgmq;", ""),
    )
    .await;

    run(
        &mut own,
        "INSERT INTO ezq.subscriptions (app, queue, pattern) VALUES ('mail', 'orders', 'order.*')",
    )
    .await;

    let mut count = 0;
    for sql in PAGES.into_iter().flat_map(|page| blocks(page, "sql")) {
        // Roles belong to the whole server.
        let sql = sql.replace("app_reader", role.as_str());
        println!("{sql}");
        run(&mut own, &sql).await;
        count += 1;
    }
    assert_eq!(count, 13);

    // Both ways for a Python publisher stored an event that a Rust handler takes.
    let stored = "SELECT array_agg(message ->> 'type' || ' ' || (message #>> '{data,order}') ORDER BY msg_id)
                  FROM pgmq.q_orders";
    assert_eq!(
        scalar::<Vec<String>>(&mut own, stored).await,
        ["order.placed 7", "order.created 7"]
    );

    let options = scalar::<Vec<String>>(
        &mut own,
        "SELECT reloptions FROM pg_class WHERE oid = 'pgmq.q_orders'::regclass",
    );
    assert_eq!(options.await.len(), 3);
}

#[test]
fn the_programs_of_the_readme_are_the_examples() {
    let unindented = |name: &str| {
        let text = read(&format!("examples/{name}.rs"));
        text.lines()
            .flat_map(|line| [line.trim(), "\n"])
            .collect::<String>()
    };

    let examples = ["quickstart", "readme", "own_database"].map(unindented);
    let shown = blocks("README.md", "rust");
    assert_eq!(shown.len(), 5);
    for block in shown {
        let is_run = examples.iter().any(|example| example.contains(&block));
        assert!(is_run, "no example has this block of the README:\n{block}");
    }
}

/// The lines work before the first release: they name the repository. This takes the crate from this
/// folder in its place, and resolves everything else as cargo would for a new program.
#[test]
fn the_dependencies_of_the_readme_resolve() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut shown = blocks("README.md", "toml");
    let lines = shown.pop().unwrap();
    assert!(shown.is_empty(), "{shown:?}");
    let from_git = format!("git = \"{}\"", env!("CARGO_PKG_REPOSITORY"));
    assert!(lines.contains(&from_git), "{lines}");
    let lines = lines.replace(&from_git, &format!("path = {root:?}"));

    let folder = std::env::temp_dir().join(unique("readme").as_str());
    std::fs::create_dir_all(folder.join("src")).unwrap();
    let package = "[workspace]\n[package]\nname = \"program\"\nedition = \"2024\"\n";
    std::fs::write(folder.join("Cargo.toml"), format!("{package}{lines}")).unwrap();
    std::fs::write(folder.join("src/main.rs"), "fn main() {}").unwrap();
    // The versions that are here already: a test downloads nothing.
    std::fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--depth", "1", "--prefix", "none"])
        .current_dir(&folder)
        .output()
        .unwrap();
    std::fs::remove_dir_all(&folder).unwrap();

    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let tree = String::from_utf8(output.stdout).unwrap();
    let version = concat!("ezq v", env!("CARGO_PKG_VERSION"));
    assert!(tree.contains(version), "{tree}");
    let minor = env!("CARGO_PKG_VERSION").rsplit_once('.').unwrap().0;
    assert!(read("README.md").contains(&format!("`ezq = \"{minor}\"`")));
}

/// Each feature of the crate is in the README's table, and whatever a page turns on exists.
#[test]
fn the_features_that_the_pages_name_are_those_of_the_crate() {
    let manifest = read("Cargo.toml");
    let features = manifest.split("[features]\n").nth(1).unwrap();
    let features = features.split("\n\n").next().unwrap();
    let features: Vec<&str> = features
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name)
        .filter(|name| *name != "default")
        .collect();
    assert!(features.len() > 3, "{features:?}");

    let readme = read("README.md");
    for feature in &features {
        let row = format!("| `{feature}`");
        assert!(readme.contains(&row), "the README has no row of {feature}");
    }
    for page in ["README.md", "docs/production.md"] {
        let lines = blocks(page, "toml").concat();
        for line in lines.lines().filter(|line| line.starts_with("ezq = ")) {
            let Some((_, named)) = line.split_once(" features = [") else {
                continue;
            };
            for named in named.split('"').skip(1).step_by(2) {
                assert!(features.contains(&named), "{page} turns on {named}");
            }
        }
    }
}

/// docs.rs shows the README as the crate's front page, where no path of the repository exists.
#[test]
fn the_links_of_the_readme_are_whole_and_lead_to_files_that_exist() {
    let readme = read("README.md");
    let main = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/");
    let mut own = 0;
    for link in readme.split("](").skip(1) {
        let link = link.split(')').next().unwrap();
        assert!(
            link.starts_with("https://") || link.starts_with('#'),
            "{link}"
        );
        let Some(path) = link.strip_prefix(main) else {
            continue;
        };
        let path = path.split('#').next().unwrap();
        let exists = Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists();
        assert!(exists, "{link}");
        own += 1;
    }
    assert!(own > 10, "only {own} links to the repository");
}

/// A documentation test hides lines that begin with `# `; a repository's page shows them.
#[test]
fn no_page_has_lines_that_only_rustdoc_hides() {
    let pages = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/migrating"));
    let pages = pages
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pages = pages.map(|name| format!("docs/migrating/{name}"));

    let others = [
        "README.md",
        "docs/production.md",
        "docs/guarantees.md",
        "docs/upgrading.md",
    ];
    for page in pages.chain(others.map(String::from)) {
        for block in blocks(&page, "rust") {
            assert!(
                !block.lines().any(|line| line.starts_with("# ")),
                "{page}:\n{block}"
            );
        }
    }
}
