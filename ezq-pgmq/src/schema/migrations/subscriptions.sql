-- A regular expression for `.` and the name of a type. Each segment of the pattern brings the dot
-- before it along.
create or replace function ezq.pattern_regex(pattern text) returns text
language sql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
  select '^' || string_agg(
    case segment
      when '*' then '[.][^.]*'
      when '#' then '([.][^.]*)*'
      else '[.]' || regexp_replace(segment, '([][\\^$+?(){}|])', '\\\1', 'g')
    end, '' order by place) || '$'
  from unnest(string_to_array(pattern, '.')) with ordinality as part(segment, place)
$$;

create table if not exists ezq.subscriptions (
  app text collate "C" not null check (octet_length(app) between 1 and 255),
  queue text collate "C" not null check (queue ~ '^[a-z0-9_]{1,40}$'),
  pattern text collate "C" not null
    check (octet_length(pattern) between 1 and 255 and pattern !~ '[^.][*#]|[*#][^.]'
           and pattern !~ '[\u0001-\u001f\u007f-\u009f]'),
  regex text generated always as
    (case when pattern ~ '[*#]' then ezq.pattern_regex(pattern) end) stored,
  since timestamptz not null default pg_catalog.clock_timestamp(),
  primary key (pattern, queue, app)
);
create index if not exists subscriptions_wide on ezq.subscriptions (queue)
  where regex is not null;

create table if not exists ezq.event_parties (
  event_type text collate "C" not null,
  role text not null check (role in ('owner', 'publisher')),
  app text collate "C" not null,
  since timestamptz not null default pg_catalog.clock_timestamp(),
  primary key (event_type, role, app)
);
