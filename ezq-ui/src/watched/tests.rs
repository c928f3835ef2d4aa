#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU32, Ordering};

use ezq::{Error, ErrorKind};

use super::*;

const EVERY: Duration = Duration::from_secs(5);

/// Figures that count how often they were asked for, and that an answer is made of.
fn counted(
    answer: impl Fn(u32) -> BoxFuture<'static, ezq::Result<u32>> + Send + Sync + 'static,
) -> (Watched<u32>, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let watched = Watched::new(EVERY, move || {
        answer(count.fetch_add(1, Ordering::Relaxed) + 1)
    });
    (watched, asked)
}

fn now(value: u32) -> BoxFuture<'static, ezq::Result<u32>> {
    async move { Ok(value) }.boxed()
}

#[tokio::test(start_paused = true)]
async fn many_viewers_cost_what_one_costs() {
    let (watched, asked) = counted(now);
    for _ in 0..10 {
        for _ in 0..20 {
            watched.look().await;
        }
        sleep(EVERY).await;
    }
    assert!(asked.load(Ordering::Relaxed) <= 11);
}

#[tokio::test(start_paused = true)]
async fn without_viewers_nothing_is_asked() {
    let (watched, asked) = counted(now);
    watched.look().await;
    sleep(EVERY * 100).await;
    let idle = asked.load(Ordering::Relaxed);
    assert!(idle <= 5, "{idle}");

    // Whoever comes back gets new figures, and not those of long ago.
    let reading = watched.look().await;
    assert_eq!(*reading.value.unwrap(), idle + 1);
}

#[tokio::test(start_paused = true)]
async fn a_look_after_a_change_waits_for_newer_figures() {
    let (watched, _) = counted(now);
    assert_eq!(*watched.look().await.value.unwrap(), 1);
    watched.change();
    assert_eq!(*watched.look().await.value.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_last_stays_when_the_database_is_away_or_slow() {
    let (watched, _) = counted(|count| match count {
        1 => now(7),
        2 => async { Err(Error::new(ErrorKind::Connection, "it is away")) }.boxed(),
        _ => futures_util::future::pending().boxed(),
    });
    watched.look().await;

    for failure in ["it is away", "no answer within 2s"] {
        watched.change();
        let began = Instant::now();
        let reading = watched.look().await;
        assert_eq!(*reading.value.unwrap(), 7);
        assert_eq!(reading.failure.as_deref(), Some(failure));
        assert!(began.elapsed() <= PATIENCE);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_and_the_next_round_comes() {
    let (watched, _) = counted(|count| {
        async move {
            assert!(count > 1, "the first one panics");
            Ok(count)
        }
        .boxed()
    });
    assert!(watched.look().await.failure.is_some());
    watched.change();
    assert_eq!(*watched.look().await.value.unwrap(), 2);
}
