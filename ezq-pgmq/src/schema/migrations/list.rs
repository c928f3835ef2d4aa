//! The list of migrations, and what one is.

use crate::schema::part::Part;

/// One migration. Its number and name never change. It adds, can be run twice, and leaves the
/// schema usable by an older ezq.
pub(in crate::schema) struct Migration {
    pub(in crate::schema) version: i32,
    pub(in crate::schema) name: &'static str,
    pub(in crate::schema) part: Part,
    /// The tables and functions that it creates.
    pub(in crate::schema) makes: &'static [&'static str],
    pub(in crate::schema) sql: &'static str,
}

impl Migration {
    pub(in crate::schema) fn tables(&self) -> impl Iterator<Item = &'static str> {
        self.makes
            .iter()
            .copied()
            .filter(|name| !name.ends_with("()"))
    }
}

/// In the order in which they are applied.
pub(in crate::schema) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "dedupe keys",
        part: Part::Engine,
        makes: &["ezq.dedupe"],
        sql: "\
create table if not exists ezq.dedupe (
  queue text not null,
  key text collate \"C\" not null,
  queue_table oid not null,
  message_id bigint not null,
  event_id text not null,
  taken_at timestamptz not null,
  free_at timestamptz not null,
  primary key (queue, key)
);
create index if not exists dedupe_free_at on ezq.dedupe (free_at);
",
    },
    Migration {
        version: 2,
        name: "inbox",
        part: Part::Inbox,
        makes: &["ezq.inbox"],
        sql: "\
create table if not exists ezq.inbox (
  handler text not null,
  source text not null,
  event_id text not null,
  handled_at timestamptz not null default pg_catalog.clock_timestamp(),
  primary key (handler, source, event_id)
);
create index if not exists inbox_handled_at on ezq.inbox (handled_at);
",
    },
    Migration {
        version: 3,
        name: "subscriptions",
        part: Part::Broadcast,
        makes: &[
            "ezq.subscriptions",
            "ezq.event_parties",
            "ezq.pattern_regex()",
        ],
        sql: include_str!("subscriptions.sql"),
    },
    Migration {
        version: 4,
        name: "schedules",
        part: Part::Schedules,
        makes: &["ezq.schedules"],
        sql: "\
create table if not exists ezq.schedules (
  name text collate \"C\" primary key,
  application text not null,
  definition text collate \"C\" not null,
  next_at timestamptz not null,
  last_tick timestamptz,
  fired_at timestamptz,
  paused_at timestamptz,
  resumed_at timestamptz,
  seen_at timestamptz not null
);
",
    },
    Migration {
        version: 5,
        name: "replays",
        part: Part::Replays,
        makes: &["ezq.replays"],
        sql: "\
create table if not exists ezq.replays (
  name text collate \"C\" primary key,
  queue text not null,
  target text not null,
  definition jsonb not null,
  position bigint not null default 0,
  last_id bigint not null,
  handed_over bigint not null default 0,
  began_at timestamptz not null default pg_catalog.clock_timestamp(),
  moved_at timestamptz not null default pg_catalog.clock_timestamp()
);
",
    },
    Migration {
        version: 6,
        name: "trail",
        part: Part::Trail,
        makes: &["ezq.trail"],
        sql: "\
create table if not exists ezq.trail (
  queue text collate \"C\" not null,
  message_id bigint not null,
  event_id text not null,
  event_type text,
  published_at timestamptz not null,
  deliveries integer not null,
  headers jsonb,
  ended_at timestamptz not null
);
create index if not exists trail_event_id on ezq.trail using hash (event_id);
create index if not exists trail_ended_at on ezq.trail (queue, ended_at);
",
    },
    Migration {
        version: 7,
        name: "pinned functions",
        part: Part::Broadcast,
        makes: &["ezq.pattern_regex()", "ezq.recipients()", "ezq.broadcast()"],
        sql: include_str!("broadcast.sql"),
    },
    Migration {
        version: 8,
        name: "queue names",
        part: Part::Broadcast,
        makes: &[],
        sql: "\
alter table ezq.subscriptions drop constraint if exists subscriptions_queue_check;
alter table ezq.subscriptions add constraint subscriptions_queue_check
  check (queue ~ '^[a-z0-9_.:/@-]{1,47}$' and queue !~ '--');
",
    },
    Migration {
        version: 9,
        name: "what a replay began beside",
        part: Part::Replays,
        makes: &[],
        sql: "\
alter table ezq.replays add column if not exists open bigint[] not null default '{}';
",
    },
    Migration {
        version: 10,
        name: "times of copies",
        part: Part::Broadcast,
        makes: &["ezq.store_copies()", "ezq.broadcast()"],
        sql: include_str!("copies.sql"),
    },
    Migration {
        version: 11,
        name: "pauses",
        part: Part::Controls,
        makes: &["ezq.controls"],
        sql: "\
create table if not exists ezq.controls (
  queue text collate \"C\" not null,
  handler text collate \"C\" not null default '',
  paused_at timestamptz,
  paused_by text,
  reason text,
  primary key (queue, handler)
);
",
    },
    Migration {
        version: 12,
        name: "consumers",
        part: Part::Presence,
        makes: &["ezq.consumers"],
        sql: "\
create table if not exists ezq.consumers (
  id uuid primary key,
  application text not null,
  version text,
  ezq_version text not null,
  host text not null,
  process bigint not null,
  queue text collate \"C\" not null,
  handlers jsonb not null,
  concurrency bigint not null,
  in_flight bigint not null,
  is_paused boolean not null,
  is_stopping boolean not null,
  handled bigint not null,
  retried bigint not null,
  dead_lettered bigint not null,
  uptime_ms bigint not null,
  seen_at timestamptz not null
);
",
    },
    Migration {
        version: 13,
        name: "cancellations",
        part: Part::Cancellations,
        makes: &["ezq.cancellations"],
        sql: "\
create table if not exists ezq.cancellations (
  queue text collate \"C\" not null,
  message_id bigint not null,
  stored_at timestamptz not null,
  is_discarded boolean not null,
  asked_by text not null,
  reason text,
  asked_at timestamptz not null,
  primary key (queue, message_id, stored_at)
);
",
    },
    Migration {
        version: 14,
        name: "operations",
        part: Part::Operations,
        makes: &["ezq.operations", "ezq.audit"],
        sql: "\
create table if not exists ezq.operations (
  id text collate \"C\" primary key,
  action text not null,
  queue text collate \"C\" not null,
  target text collate \"C\",
  state text not null,
  filter jsonb not null,
  last_id bigint not null,
  position bigint not null default 0,
  done bigint not null default 0,
  skipped bigint not null default 0,
  failed bigint not null default 0,
  total bigint,
  by text not null,
  reason text,
  began_at timestamptz not null default pg_catalog.clock_timestamp(),
  moved_at timestamptz not null default pg_catalog.clock_timestamp(),
  stopped_at timestamptz,
  ended_at timestamptz
);
create index if not exists operations_began_at on ezq.operations (began_at, id);
create table if not exists ezq.audit (
  id bigint generated always as identity primary key,
  at timestamptz not null,
  by text not null,
  reason text,
  action text not null,
  queue text collate \"C\" not null,
  handler text,
  target text collate \"C\",
  message_id bigint,
  stored_at timestamptz,
  is_dead boolean,
  operation text collate \"C\",
  state text,
  filter jsonb,
  count bigint
);
create index if not exists audit_queue on ezq.audit (queue, id);
",
    },
    Migration {
        version: 15,
        name: "what a schedule publishes",
        part: Part::Schedules,
        makes: &[],
        sql: "\
alter table ezq.schedules add column if not exists event text;
",
    },
    Migration {
        version: 16,
        name: "audit of schedules",
        part: Part::Operations,
        makes: &[],
        sql: "\
alter table ezq.audit alter column queue drop not null;
alter table ezq.audit add column if not exists schedule text;
",
    },
    Migration {
        version: 17,
        name: "positions of sources",
        part: Part::Positions,
        makes: &["ezq.positions"],
        sql: "\
create table if not exists ezq.positions (
  source text collate \"C\" not null,
  partition text collate \"C\" not null,
  major numeric(20, 0),
  minor numeric(20, 0),
  updated_at timestamptz not null default pg_catalog.clock_timestamp(),
  primary key (source, partition)
);
",
    },
    Migration {
        version: 18,
        name: "audit of subscriptions, captures and replays",
        part: Part::Operations,
        makes: &[],
        sql: "\
alter table ezq.audit add column if not exists application text;
alter table ezq.audit add column if not exists subject text;
create index if not exists audit_by on ezq.audit (by, id);
create index if not exists audit_action on ezq.audit (action, id);
create index if not exists audit_at on ezq.audit (at);
",
    },
    Migration {
        version: 19,
        name: "who holds leases",
        part: Part::Holders,
        makes: &["ezq.holders"],
        sql: "\
create table if not exists ezq.holders (
  sign integer primary key,
  lease interval not null,
  missed_at timestamptz
);
",
    },
];
