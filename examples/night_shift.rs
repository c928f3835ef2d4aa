//! A night shift. Schedules of the program's own send the guard round and have the stock counted, a
//! handler of batches writes the log, a delayed event ends the shift, and a layer times every handler.
//!
//! ```sh
//! cargo run --example night_shift
//! ```

use ezq::CancellationToken;
use ezq::admin::ScheduleStatus;
use ezq::handler::{Call, HandlerResult, Layer, Next};
use ezq::observe::{NoticeKind, NoticeStream};
use ezq::prelude::*;
use ezq::sqlx;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A patrol is due. A schedule publishes it every second.
#[derive(Event, Serialize, Deserialize)]
#[event(type = "patrol.due", queue = "night-patrols")]
struct PatrolDue {
    floors: u8,
}

/// The stock is to be counted. A schedule publishes it twice a day.
#[derive(Event, Serialize, Deserialize)]
#[event(type = "count.due", queue = "night-patrols")]
struct CountDue {}

/// A door was checked on a patrol.
#[derive(Event, Serialize, Deserialize)]
#[event(type = "door.checked", queue = "night-log")]
struct DoorChecked {
    floor: u8,
    door: u8,
}

/// The shift ends. It is published with a delay.
#[derive(Event, Serialize, Deserialize)]
#[event(type = "shift.ends", queue = "night-patrols")]
struct ShiftEnds {}

const DOORS_PER_FLOOR: u8 = 10;

/// Checks every door. What it returns is published with the acknowledgement of the patrol.
#[on_event]
async fn patrol(event: PatrolDue) -> Vec<DoorChecked> {
    let doors_of = |floor| (1..=DOORS_PER_FLOOR).map(move |door| DoorChecked { floor, door });
    (0..event.floors).flat_map(doors_of).collect()
}

/// Writes many doors in one statement. The rows and the acknowledgements commit together.
#[on_event(batch(size = 100, wait = "100ms"))]
async fn write_log(batch: Batch<DoorChecked>, mut tx: Tx) -> sqlx::Result<()> {
    let floors: Vec<i16> = batch.events().map(|event| event.floor.into()).collect();
    let doors: Vec<i16> = batch.events().map(|event| event.door.into()).collect();
    let write = "
        insert into night_shift_example.log (floor, door)
        select * from unnest($1::int2[], $2::int2[])";
    sqlx::query(write)
        .bind(floors)
        .bind(doors)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

#[on_event]
async fn count_stock(_: CountDue, mut tx: Tx) -> sqlx::Result<()> {
    sqlx::query("insert into night_shift_example.counts default values")
        .execute(&mut *tx)
        .await?;
    Ok(())
}

#[on_event]
async fn end_shift(_: ShiftEnds, State(shift): State<CancellationToken>) {
    println!("the shift ends");
    shift.cancel();
}

/// A layer: how often each handler ran, and for how long in all.
#[derive(Clone, Default)]
struct Timing(Arc<Mutex<BTreeMap<String, (u32, Duration)>>>);

impl Layer for Timing {
    async fn run(&self, call: Call, next: Next) -> HandlerResult {
        let handler = call.context().handler().to_string();
        let began = Instant::now();
        let result = next.run(call).await;

        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (runs, time) = times.entry(handler).or_default();
        *runs += 1;
        *time += began.elapsed();
        result
    }
}

impl Timing {
    fn runs(&self, handler: &str) -> u32 {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.get(handler).map_or(0, |(runs, _)| *runs)
    }

    fn print(&self) {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (handler, (runs, time)) in times.iter() {
            println!("{handler}: {runs} runs, {time:?}");
        }
    }
}

/// Waits until this many events of a type are handled.
async fn handled(notices: &mut NoticeStream, event_type: &str, mut count: u32) {
    while count > 0 {
        let Some(notice) = notices.recv().await else {
            return;
        };
        let is_handled = matches!(notice.kind, NoticeKind::Handled { .. });
        if is_handled && notice.event_type.as_deref() == Some(event_type) {
            count -= 1;
        }
    }
}

async fn status(ezq: &Ezq, name: &str) -> Result<ScheduleStatus, Box<dyn Error>> {
    let listed = ezq.schedules()?.list().await?;
    let found = listed.into_iter().find(|schedule| schedule.name == name);
    Ok(found.ok_or("the schedule is not listed")?)
}

/// The guard rests: no tick sends him round, but a word of his chief does.
async fn rest(ezq: &Ezq, notices: &mut NoticeStream) -> Result<ScheduleStatus, Box<dyn Error>> {
    let schedules = ezq.schedules()?;
    schedules.pause("patrol").await?;
    let resting = status(ezq, "patrol").await?;
    println!("{}: {}, paused", resting.name, resting.definition);
    assert!(resting.is_paused && resting.next_at.is_none());

    let sent = schedules.run_now("patrol").await?;
    println!("sent round by hand: {}", sent.event_id);
    handled(notices, "patrol.due", 1).await;
    Ok(resting)
}

/// Two rounds by the schedule, one by hand. Then the stock is counted, now and not in twelve hours, and
/// the end of the shift is announced.
async fn night(ezq: &Ezq, notices: &mut NoticeStream) -> Result<ScheduleStatus, Box<dyn Error>> {
    handled(notices, "patrol.due", 2).await;
    let resting = rest(ezq, notices).await?;
    ezq.schedules()?.run_now("stock").await?;
    ezq.publish(&ShiftEnds {})
        .after(Duration::from_secs(2))
        .await?;
    Ok(resting)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let shift = CancellationToken::new();
    let timing = Timing::default();
    let ezq = Ezq::builder()
        .app("night-shift")
        .state(shift.clone())
        .layer(timing.clone())
        .schedule("patrol", Schedule::every("1s"), &PatrolDue { floors: 3 })
        .schedule("stock", Schedule::every("12h"), &CountDue {})
        .connect()
        .await?;
    let tables = "
        drop schema if exists night_shift_example cascade;
        create schema night_shift_example;
        create table night_shift_example.log (
            floor int2, door int2, transaction xid8 default pg_current_xact_id()
        );
        create table night_shift_example.counts (at timestamptz default now())";
    sqlx::raw_sql(tables).execute(ezq.pool()).await?;

    let mut notices = ezq.notices();
    let mut consumers = ezq.consumer().stop_on(shift).spawn_all()?;
    let resting = tokio::select! {
        resting = night(&ezq, &mut notices) => resting?,
        report = &mut consumers => return Err(format!("ended before its time: {}", report?).into()),
    };
    let report = consumers.await?;
    println!("{report}");

    // No tick came while the schedule was paused.
    let at_the_end = status(&ezq, "patrol").await?;
    assert_eq!(at_the_end.last_tick, resting.last_tick);
    ezq.schedules()?.resume("patrol").await?;
    assert!(status(&ezq, "patrol").await?.next_at.is_some());

    // What the end of the shift left in the queues: patrols first, then what they logged. Consumers
    // that run until they are idle fire no schedules.
    let patrols = ezq.consumer().queue("night-patrols").until_idle();
    patrols.run().await?;
    let log = ezq.consumer().queue("night-log").until_idle();
    log.run().await?;

    let written = "select count(*), count(distinct transaction) from night_shift_example.log";
    let (doors, batches): (i64, i64) = sqlx::query_as(written).fetch_one(ezq.pool()).await?;
    let counts: i64 = sqlx::query_scalar("select count(*) from night_shift_example.counts")
        .fetch_one(ezq.pool())
        .await?;
    timing.print();
    println!("{doors} doors in {batches} batches");
    let patrols = timing.runs("night_shift::patrol");
    assert!(patrols >= 3);
    assert_eq!(doors, i64::from(patrols * 3 * u32::from(DOORS_PER_FLOOR)));
    assert!(batches < doors);
    assert_eq!(counts, 1);
    ezq.close().await;
    Ok(())
}
