//! Measures ezq and other job libraries beside each other, on one Postgres that it starts itself.
//!
//! ```sh
//! cargo run --release                            # all, three rounds
//! cargo run --release -- --json ezq pg-boss      # two libraries, as JSON
//! ```
//!
//! The libraries take turns in each round. Each figure comes from a new database, each library works in
//! a process of its own, and every count is checked in the database.

mod cases;
mod child;
mod error;
mod figures;
mod job;
mod library;
mod load;
mod packages;
mod peer;
mod peers;
mod process;
mod server;

use child::Task;
use error::Result;
use figures::{Column, Figures};
use library::{ALL, Language, Library, install_node};
use server::Server;

/// What the command line asks for.
struct Options {
    rounds: u32,
    jobs: u64,
    json: bool,
    cases: Vec<String>,
    libraries: Vec<Library>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--child") {
        arguments.remove(0);
        return child::run(task_of(arguments)?).await;
    }

    let options = options_of(arguments)?;
    let mut server = Server::start().await?;
    println!("{}", describe(&mut server).await?);
    let figures = measure(&mut server, &options).await?;

    if options.json {
        println!("{}", figures::json_lines(&figures));
    } else {
        println!("{}", figures::table(&figures));
    }
    Ok(())
}

fn task_of(arguments: Vec<String>) -> Result<Task> {
    let arguments: [String; 5] = arguments
        .try_into()
        .map_err(|_| "a child has five arguments")?;
    let [name, library, url, jobs, unfinished] = arguments;
    Ok(Task {
        name,
        library,
        url,
        jobs: jobs.parse()?,
        unfinished,
    })
}

fn options_of(arguments: Vec<String>) -> Result<Options> {
    let mut options = Options {
        rounds: 3,
        jobs: 50_000,
        json: false,
        cases: Vec::new(),
        libraries: Vec::new(),
    };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--json" => options.json = true,
            "--rounds" => options.rounds = value()?.parse()?,
            "--jobs" => options.jobs = value()?.parse()?,
            "--case" => options.cases.push(value()?),
            name => {
                let library = ALL.iter().find(|library| library.name == name);
                options
                    .libraries
                    .push(*library.ok_or(format!("no library or option {name}"))?);
            }
        }
    }

    if options.libraries.is_empty() {
        options.libraries.extend(ALL);
    }
    if options
        .libraries
        .iter()
        .any(|one| one.language == Language::Node)
        && let Err(error) = install_node()
    {
        eprintln!("LEFT OUT: graphile-worker and pg-boss, since they need npm: {error}");
        options
            .libraries
            .retain(|one| one.language != Language::Node);
    }
    Ok(options)
}

/// What figures depend on.
async fn describe(server: &mut Server) -> Result<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": "));
    Ok(format!(
        "{} cores ({}), PostgreSQL {}, durable defaults",
        std::thread::available_parallelism()?,
        model.map_or(std::env::consts::ARCH, |(_, model)| model),
        server.version().await?,
    ))
}

async fn measure(server: &mut Server, options: &Options) -> Result<Vec<Figures>> {
    let mut all = Vec::new();
    for library in &options.libraries {
        all.push(Figures::new(library.name, library.version()?));
    }
    let wants =
        |case: &str| options.cases.is_empty() || options.cases.iter().any(|one| one == case);

    for round in 0..options.rounds {
        for (library, figures) in options.libraries.iter().zip(&mut all) {
            eprintln!("round {}: {}", round + 1, library.name);
            if wants("work") {
                let (work, bulk) = cases::work(server, library, options.jobs).await?;
                figures.add(Column::Work, work);
                if library.has_bulk {
                    figures.add(Column::Bulk, bulk);
                }
            }
            if wants("publish") {
                figures.add(Column::Publish, cases::publish(server, library).await?);
            }
            if wants("latency") && library.has_worker {
                let (p50, p99) = cases::latency(server, library).await?;
                figures.add(Column::LatencyP50, p50);
                figures.add(Column::LatencyP99, p99);
            }
        }
        if wants("waiting") {
            wait(server, options, round, &mut all).await?;
        }
    }
    Ok(all)
}

/// The cases in which nothing is to be done but to wait.
async fn wait(
    server: &mut Server,
    options: &Options,
    round: u32,
    all: &mut [Figures],
) -> Result<()> {
    let workers = options.libraries.iter().filter(|one| one.has_worker);
    let workers: Vec<Library> = workers.copied().collect();
    eprintln!("round {}: idle workers, and killed ones", round + 1);
    let idle = cases::idle(server, &workers).await?;
    let recoveries = cases::recovery(server, &workers, round).await?;

    for ((library, idle), recovery) in workers.iter().zip(idle).zip(recoveries) {
        let figures = all.iter_mut().find(|one| one.library == library.name);
        let figures = figures.ok_or("a library without figures")?;
        figures.add(Column::Idle, idle);
        figures.add(Column::Recovery, recovery.unwrap_or(f64::INFINITY));
    }
    Ok(())
}
