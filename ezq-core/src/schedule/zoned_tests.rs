//! Against an oracle that walks chrono-tz minute by minute around every change of the clocks. A
//! sample of the zones by default; all of them, which takes a few minutes, with `EZQ_EVERY_ZONE=1`.

use std::collections::HashSet;

use chrono::{Datelike, Timelike};
use chrono_tz::TZ_VARIANTS;
use croner::parser::{CronParser, Seconds, Year};

use super::*;

/// Zones with changes that are out of the ordinary: at midnight, of a day, of half an hour, of hours,
/// several a year.
const ODD: [Tz; 20] = [
    Tz::America__Nuuk,
    Tz::Antarctica__Casey,
    Tz::Antarctica__Troll,
    Tz::Pacific__Apia,
    Tz::Pacific__Fakaofo,
    Tz::Australia__Lord_Howe,
    Tz::Africa__Casablanca,
    Tz::Africa__Cairo,
    Tz::Asia__Gaza,
    Tz::Asia__Tehran,
    Tz::Asia__Pyongyang,
    Tz::America__Caracas,
    Tz::America__Havana,
    Tz::America__Sao_Paulo,
    Tz::America__St_Johns,
    Tz::America__Scoresbysund,
    Tz::Atlantic__Azores,
    Tz::Europe__Dublin,
    Tz::Europe__Paris,
    Tz::Pacific__Chatham,
];

fn cron(expression: &str) -> Cron {
    let parser = CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .build();
    parser.parse(expression).unwrap()
}

fn minutes(count: i64) -> TimeDelta {
    TimeDelta::minutes(count)
}

/// Every change of a zone's clock from 2000 to 2037, as the first minute after it.
fn changes(tz: Tz) -> Vec<DateTime<Utc>> {
    let start = Utc.with_ymd_and_hms(2000, 1, 1, 0, 0, 0).unwrap();
    let days = (0..38 * 365).map(|day| start + TimeDelta::days(day));
    let has_change = |day: &DateTime<Utc>| ahead(tz, *day) != ahead(tz, *day + TimeDelta::days(1));

    let first = |day: DateTime<Utc>| {
        let mut minute = day;
        while ahead(tz, minute) == ahead(tz, day) {
            minute += minutes(1);
        }
        minute
    };
    days.filter(has_change).map(first).collect()
}

/// What the clock shows, minute by minute.
fn walk(tz: Tz, from: DateTime<Utc>, until: DateTime<Utc>) -> Vec<(DateTime<Utc>, NaiveDateTime)> {
    let count = (until - from).num_minutes();
    let minute = |n: i64| from + minutes(n);
    (0..=count)
        .map(minute)
        .map(|at| (at, at.with_timezone(&tz).naive_local()))
        .collect()
}

/// The first minute that shows each of some times or a later one.
fn oracle_of_fixed(
    walk: &[(DateTime<Utc>, NaiveDateTime)],
    hour: u32,
    minute: u32,
    is_named: impl Fn(NaiveDateTime) -> bool,
) -> Vec<DateTime<Utc>> {
    let first_day = walk[0].1.date();
    let days = first_day.iter_days().take(8);
    let named = days
        .filter_map(|day| day.and_hms_opt(hour, minute, 0))
        .filter(|at| is_named(*at));

    let mut ticks: Vec<DateTime<Utc>> = named
        .filter(|time| *time > walk[0].1)
        .filter_map(|time| {
            walk.iter()
                .find(|(_, shown)| *shown >= time)
                .map(|(at, _)| *at)
        })
        .collect();
    ticks.dedup();
    ticks
}

fn compare(
    tz: Tz,
    expression: &str,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    expected: &[DateTime<Utc>],
) {
    let cron = cron(expression);
    let place = || format!("`{expression}` in {tz} from {from}");
    let mut found = Vec::new();
    let mut at = from;
    while let Some(tick) = next(&cron, tz, at).filter(|tick| *tick <= until) {
        assert!(tick > at, "{}", place());
        found.push(tick);
        at = tick;
    }
    assert_eq!(found, expected, "{}", place());

    for pair in expected.windows(2) {
        let half = TimeDelta::milliseconds(500);
        for now in [pair[0], pair[0] + half, pair[1] - half] {
            assert_eq!(
                previous(&cron, tz, now),
                Some(pair[0]),
                "{} at {now}",
                place()
            );
        }
    }
}

fn check(tz: Tz, change: DateTime<Utc>) {
    let old = ahead(tz, change - minutes(1));
    let new = ahead(tz, change);
    let length = (new - old).abs();

    // The middle of what the clock leaves out, or shows twice.
    let middle = change.naive_utc() + (old + new) / 2;
    let hour = middle.hour();
    let minute = middle.minute();
    let from = change - TimeDelta::hours(50);
    let until = change + TimeDelta::hours(50);
    let shown = walk(tz, from, until);

    let every_day = |_: NaiveDateTime| true;
    let date = |at: NaiveDateTime| at.date() == middle.date();
    let weekday = |at: NaiveDateTime| at.weekday() == middle.weekday();
    let fixed = |expression: String, hour, minute, is_named: &dyn Fn(NaiveDateTime) -> bool| {
        let expected = oracle_of_fixed(&shown, hour, minute, is_named);
        compare(tz, &expression, from, until, &expected);
    };
    fixed(format!("{minute} {hour} * * *"), hour, minute, &every_day);
    fixed("0 0 * * *".to_owned(), 0, 0, &every_day);

    fixed(
        format!("{minute} {hour} {} {} *", middle.day(), middle.month()),
        hour,
        minute,
        &date,
    );

    fixed(
        format!("{minute} {hour} * * {}", middle.weekday()),
        hour,
        minute,
        &weekday,
    );

    let edge = change.naive_utc() + old;
    let hour = edge.hour();
    let minute = edge.minute();
    fixed(format!("{minute} {hour} * * *"), hour, minute, &every_day);

    let from = change - length - minutes(200);
    let until = change + length + minutes(200);
    let shown = walk(tz, from, until);
    let shows = |expression: String, matches: &dyn Fn(NaiveDateTime) -> bool| {
        let ticks = shown.iter().skip(1).filter(|(_, shown)| matches(*shown));
        let expected: Vec<DateTime<Utc>> = ticks.map(|(at, _)| *at).collect();
        compare(tz, &expression, from, until, &expected);
    };

    let hour = middle.hour();
    shows("*/20 * * * *".to_owned(), &|at| at.minute() % 20 == 0);
    shows(format!("7,45 {hour} * * *"), &|at| {
        at.hour() == hour && [7, 45].contains(&at.minute())
    });
    shows(format!("59 * {} * *", middle.day()), &|at| {
        at.minute() == 59 && at.day() == middle.day()
    });
}

#[test]
fn ticks_are_those_of_the_clock_at_every_change_of_every_zone() {
    let is_every = std::env::var_os("EZQ_EVERY_ZONE").is_some();
    let sample = TZ_VARIANTS
        .iter()
        .enumerate()
        .filter(|(place, _)| is_every || place % 100 == 0);
    let zones: Vec<Tz> = sample.map(|(_, tz)| *tz).chain(ODD).collect();
    let mut seen = HashSet::new();
    let mut checked = 0;

    for tz in zones {
        for change in changes(tz) {
            let old = ahead(tz, change - minutes(1));
            let new = ahead(tz, change);

            // Zones share rules, and years the days of the week.
            let year = if is_every {
                change.timestamp()
            } else {
                i64::from(change.year() % 2)
            };

            if seen.insert((old, new, year, change.month(), change.time())) {
                check(tz, change);
                checked += 1;
            }
        }
    }

    assert!(checked > 100, "only {checked} changes were looked at");
}

fn ticks(tz: Tz, expression: &str, from: &str, count: usize) -> Vec<String> {
    let cron = cron(expression);
    let mut at = DateTime::parse_from_rfc3339(from)
        .unwrap()
        .with_timezone(&Utc);
    let mut found = Vec::new();

    for _ in 0..count {
        at = next(&cron, tz, at).unwrap();
        found.push(
            at.with_timezone(&tz)
                .format("%Y-%m-%d %H:%M %:z")
                .to_string(),
        );
    }

    found
}

#[test]
fn a_gap_that_ends_at_midnight_loses_no_day() {
    let found = ticks(
        Tz::America__Nuuk,
        "30 23 * * SAT",
        "2026-03-22T12:00:00Z",
        2,
    );
    assert_eq!(
        found,
        ["2026-03-29 00:00 -01:00", "2026-04-04 23:30 -01:00"]
    );

    let found = ticks(Tz::America__Nuuk, "30 23 28 3 *", "2026-01-01T00:00:00Z", 2);
    assert_eq!(
        found,
        ["2026-03-29 00:00 -01:00", "2027-03-28 23:30 -01:00"]
    );
}

#[test]
fn a_gap_of_hours_or_of_a_day_is_passed() {
    let found = ticks(
        Tz::Antarctica__Casey,
        "0 1 * * *",
        "2021-10-02T12:00:00Z",
        2,
    );
    assert_eq!(found.len(), 2);

    // On Samoa there was no 30 December 2011.
    let found = ticks(Tz::Pacific__Apia, "0 12 * * *", "2011-12-29T12:00:00Z", 3);
    assert_eq!(
        found,
        [
            "2011-12-29 12:00 -10:00",
            "2011-12-31 00:00 +14:00",
            "2011-12-31 12:00 +14:00"
        ]
    );

    let found = ticks(Tz::Pacific__Apia, "* * * * * *", "2011-12-30T09:59:58Z", 2);
    assert_eq!(
        found,
        ["2011-12-29 23:59 -10:00", "2011-12-31 00:00 +14:00"]
    );
}

#[test]
fn what_is_far_away_is_found() {
    let found = ticks(
        Tz::Europe__Paris,
        "*/30 2 29 2 +SUN",
        "2026-03-01T12:00:00Z",
        2,
    );
    assert_eq!(
        found,
        ["2032-02-29 02:00 +01:00", "2032-02-29 02:30 +01:00"]
    );
}
