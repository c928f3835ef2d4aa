use std::time::Duration;

use super::*;

fn when(schedule: Schedule) -> When {
    When::new(&schedule).unwrap()
}

fn time(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text)
        .unwrap()
        .with_timezone(&Utc)
}

/// The next times, as that zone's clocks show them.
fn ticks(schedule: Schedule, from: &str, count: usize) -> Vec<String> {
    let when = when(schedule);
    let When::Cron { tz, .. } = &when else {
        panic!("no cron expression")
    };
    let tz = *tz;
    let mut now = time(from);

    let mut found = Vec::new();
    for _ in 0..count {
        let next = when.next(now, now).unwrap();
        assert!(next > now);

        // What lies between is not a tick, and what has just come is the newest.
        for at in [next, next + TimeDelta::milliseconds(500)] {
            assert_eq!(when.newest(now, at).unwrap(), next, "at {at}");
        }

        found.push(
            next.with_timezone(&tz)
                .format("%d %H:%M:%S %:z")
                .to_string(),
        );
        now = next;
    }

    found
}

fn paris(expression: &str) -> Schedule {
    Schedule::cron(expression).tz("Europe/Paris")
}

#[test]
fn mondays_at_nine_are_nine_in_summer_and_in_winter() {
    let found = ticks(paris("0 9 * * MON"), "2026-03-17T00:00:00Z", 3);
    assert_eq!(
        found,
        [
            "23 09:00:00 +01:00",
            "30 09:00:00 +02:00",
            "06 09:00:00 +02:00"
        ]
    );
}

// On 29 March 2026 the clocks of Paris go from 02:00 to 03:00.
#[test]
fn a_fixed_time_in_the_gap_of_spring_ticks_once_right_after_it() {
    let found = ticks(paris("30 2 * * *"), "2026-03-28T00:00:00Z", 3);
    assert_eq!(
        found,
        [
            "28 02:30:00 +01:00",
            "29 03:00:00 +02:00",
            "30 02:30:00 +02:00"
        ]
    );
}

#[test]
fn steps_leave_out_the_gap_of_spring() {
    let found = ticks(paris("*/30 * * * *"), "2026-03-29T00:20:00Z", 4);
    assert_eq!(
        found,
        [
            "29 01:30:00 +01:00",
            "29 03:00:00 +02:00",
            "29 03:30:00 +02:00",
            "29 04:00:00 +02:00"
        ]
    );
}

// On 25 October 2026 they go from 03:00 back to 02:00.
#[test]
fn a_fixed_time_that_comes_twice_in_autumn_ticks_once() {
    let found = ticks(paris("30 2 * * *"), "2026-10-24T12:00:00Z", 2);
    assert_eq!(found, ["25 02:30:00 +02:00", "26 02:30:00 +01:00"]);
}

#[test]
fn steps_go_through_the_hour_that_comes_twice_in_autumn_twice() {
    let found = ticks(paris("*/30 2 * * *"), "2026-10-24T12:00:00Z", 5);
    assert_eq!(
        found,
        [
            "25 02:00:00 +02:00",
            "25 02:30:00 +02:00",
            "25 02:00:00 +01:00",
            "25 02:30:00 +01:00",
            "26 02:00:00 +01:00"
        ]
    );
}

#[test]
fn the_newest_of_many_missed_ticks_is_found_across_changes_of_the_clocks() {
    for expression in [
        "0 0 9 * * *",
        "30 2 * * *",
        "*/15 * * * *",
        "0 2,3 * * *",
        "0 12 L * *",
    ] {
        let when = when(paris(expression));
        for start in ["2026-03-26T00:00:00Z", "2026-10-22T00:00:00Z"] {
            let from = time(start);
            let end = time(start) + TimeDelta::days(7);
            let first = when.next(from, from).unwrap();
            let mut newest = first;
            while newest < end {
                let next = when.next(newest, newest).unwrap();
                let before = next - TimeDelta::milliseconds(1);
                assert_eq!(
                    when.newest(first, before).unwrap(),
                    newest,
                    "{expression} at {before}"
                );
                newest = next;
            }
        }
    }
}

#[test]
fn intervals_keep_their_step_whatever_was_missed() {
    let when = when(Schedule::every("90s"));
    let anchor = time("2026-01-01T00:00:10.25Z");
    assert_eq!(
        when.next(anchor, anchor).unwrap(),
        time("2026-01-01T00:01:40.25Z")
    );

    let late = time("2026-01-01T00:05:00Z");
    assert_eq!(
        when.newest(anchor, late).unwrap(),
        time("2026-01-01T00:04:40.25Z")
    );
    assert_eq!(
        when.next(late, anchor).unwrap(),
        time("2026-01-01T00:06:10.25Z")
    );
}

#[test]
fn the_same_schedule_is_said_in_one_way() {
    assert_eq!(
        when(Schedule::every("60s")).to_string(),
        when(Schedule::every("1m")).to_string()
    );
    assert_eq!(
        when(paris("0 9 * * mon")).to_string(),
        "cron 0 9 * * 1 (Europe/Paris)"
    );
}

#[test]
fn what_names_no_times_is_refused_with_what_to_write() {
    let refused = |schedule: Schedule| {
        let error = When::new(&schedule).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        error.to_string()
    };
    assert!(refused(Schedule::cron("0 9 * *")).contains("such as `0 9 * * MON`"));

    for expression in [
        ", * * * *",
        "1,,2 * * * *",
        "* * * * MON,",
        "0 0 31 4 *",
        "* * 30 2 *",
    ] {
        refused(Schedule::cron(expression));
    }

    assert!(refused(Schedule::cron("61 9 * * *")).contains("is not a cron expression"));
    assert!(refused(Schedule::cron("0 0 9 * * MON 2020")).contains("is not a cron expression"));
    assert!(refused(Schedule::cron("0 0 30 2 *")).contains("matches no time"));
    assert!(refused(paris("0 9 * * MON").tz("Europe/Pari")).contains("no time zone `Europe/Pari`"));
    assert!(refused(paris("0 9 * * MON").tz("europe/paris")).contains("write `Europe/Paris`"));
    assert!(refused(Schedule::every("soon")).contains("`30s`"));
    assert!(refused(Schedule::every("0s")).contains("at least 1s"));
    assert!(refused(Schedule::every("500ms")).contains("at least 1s"));
    assert!(refused(Schedule::every("99999999999d")).contains("36500d"));
    assert!(refused(Schedule::every(Duration::ZERO)).contains("at least 1s"));
    assert!(refused(Schedule::every(Duration::from_secs(u64::MAX))).contains("36500d"));
    let uneven = Duration::from_micros(1_000_500);
    assert!(refused(Schedule::every(uneven)).contains("whole number of milliseconds"));
    assert!(refused(Schedule::every("1m").tz("UTC")).contains("leave out `tz`"));
}

#[test]
fn an_interval_is_the_same_as_text_and_as_a_duration() {
    let by_time = when(Schedule::every(Duration::from_secs(90)));
    assert_eq!(
        by_time.to_string(),
        when(Schedule::every("90s")).to_string()
    );
}
