//! Every way to stop a consumer, one after another: `cargo run --example graceful_shutdown`.
//!
//! Deployments stop workers all the time, and no stop may lose work. The example stops consumers by a
//! token, by `End` with and without a time, by `Interrupt`, and by a signal that it sends to itself. With
//! `-- --wait` it works until you press Ctrl-C. Press it twice, and it does not wait for handlers.
//!
//! What to see: no job is lost. What a stop leaves over goes back to the queue at once, and the next
//! consumer takes it. The example needs no database: without `DATABASE_URL` it starts one.

use std::error::Error;
use std::time::Duration;

use ezq::prelude::*;
use ezq::{CancellationToken, Consumer, QueueName};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const QUEUE: &str = "graceful_shutdown_example";

#[derive(Event, Serialize, Deserialize)]
#[event(queue = "graceful_shutdown_example")]
struct Job {
    name: String,
    millis: u64,
}

#[on_event]
async fn work(job: Job, State(started): State<UnboundedSender<()>>) -> ezq::Result<()> {
    println!("    {} begins", job.name);
    let mut cut_short = CutShort(Some(job.name));
    // The receiver is gone once the program ends.
    let _ = started.send(());
    sleep(Duration::from_millis(job.millis)).await;
    if let Some(name) = cut_short.0.take() {
        println!("    {name} is done");
    }
    Ok(())
}

/// A handler that is cancelled is dropped at the `.await` where it waits. So what must be tidied up
/// belongs in a `Drop`.
struct CutShort(Option<String>);

impl Drop for CutShort {
    fn drop(&mut self) {
        if let Some(name) = &self.0 {
            println!("    {name} is cancelled");
        }
    }
}

struct Demo {
    ezq: Ezq,
    queue: QueueName,
    started: UnboundedReceiver<()>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let waits = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--wait"] => true,
        _ => {
            eprintln!("usage: graceful_shutdown [--wait]");
            std::process::exit(2);
        }
    };

    let (sender, started) = unbounded_channel();
    let ezq = Ezq::builder().state(sender).connect().await?;
    let queue = QueueName::new(QUEUE)?;
    ezq.engine(&queue).ensure_queue(&queue).await?;
    ezq.purge(&queue).await?;

    let mut demo = Demo {
        ezq,
        queue,
        started,
    };
    if waits {
        demo.wait_for_ctrl_c().await
    } else {
        demo.show_all().await
    }
}

impl Demo {
    async fn show_all(&mut self) -> Result<()> {
        self.token().await?;
        self.end().await?;
        self.end_within_a_time().await?;
        self.interrupt().await?;
        self.signal().await
    }

    async fn token(&mut self) -> Result<()> {
        println!("\na token: what runs may finish, what waits goes back");
        self.publish("job 1", 300).await?;
        self.publish("job 2", 300).await?;

        let token = CancellationToken::new();
        let consumer = self
            .consumer()
            .concurrency(1)
            .stop_on(token.clone())
            .spawn();
        self.begun().await?;

        token.cancel();
        println!("    {}", consumer.await?);
        self.left().await
    }

    async fn end(&mut self) -> Result<()> {
        println!("\nEnd: what was published before it is handled, what comes after it is not");
        self.publish("job 3", 100).await?;
        self.ezq.publish(&End::default()).queue(&self.queue).await?;
        self.publish("job 4", 100).await?;
        let report = self.consumer().run().await?;
        println!("    {report}");
        self.left().await
    }

    async fn end_within_a_time(&mut self) -> Result<()> {
        println!("\nEnd with a time: who is not done by then is cancelled");
        self.publish("job 5", 500).await?;
        self.ezq
            .publish(&End::within(Duration::from_millis(250)))
            .queue(&self.queue)
            .await?;
        let report = self.consumer().run().await?;
        println!("    {report}");
        self.left().await
    }

    async fn interrupt(&mut self) -> Result<()> {
        println!("\nInterrupt: what runs is cancelled now");
        let consumer = self.consumer().spawn();
        self.begun().await?;
        self.ezq
            .publish(&Interrupt::default())
            .queue(&self.queue)
            .await?;
        println!("    {}", consumer.await?);
        self.left().await
    }

    async fn signal(&mut self) -> Result<()> {
        println!(
            "\nSIGTERM, as a service manager sends it: as a token, within a grace of your own"
        );
        let consumer = self
            .consumer()
            .stop_on_signals()
            .grace(Duration::from_secs(5))
            .spawn();
        self.begun().await?;

        let own = std::process::id().to_string();
        tokio::process::Command::new("kill")
            .args(["-TERM", &own])
            .status()
            .await?;
        println!("    {}", consumer.await?);
        self.left().await
    }

    async fn wait_for_ctrl_c(&mut self) -> Result<()> {
        let consumer = self.consumer().concurrency(2).stop_on_signals().spawn();
        println!("press Ctrl-C to stop: what runs may finish; press it again to cancel that too");
        for n in 1.. {
            if !consumer.is_running() {
                break;
            }
            self.publish(&format!("job {n}"), 1500).await?;
            for _ in 0..10 {
                sleep(Duration::from_millis(100)).await;
                if !consumer.is_running() {
                    break;
                }
            }
        }
        println!("{}", consumer.await?);
        self.left().await
    }

    fn consumer(&mut self) -> Consumer {
        while self.started.try_recv().is_ok() {}
        self.ezq.consumer().queue(&self.queue)
    }

    async fn publish(&self, name: &str, millis: u64) -> Result<()> {
        self.ezq
            .publish(&Job {
                name: name.to_owned(),
                millis,
            })
            .await?;
        Ok(())
    }

    /// Waits until a job of the newest consumer has begun.
    async fn begun(&mut self) -> Result<()> {
        self.started
            .recv()
            .await
            .ok_or_else(|| "no job will begin any more".into())
    }

    async fn left(&self) -> Result<()> {
        println!(
            "    waiting in the queue: {}",
            self.ezq.stats(&self.queue).await?.ready
        );
        Ok(())
    }
}
