-- A regular expression for `.` and the name of a type. Each segment of the pattern brings the dot
-- before it along.
create or replace function ezq.pattern_regex(pattern text) returns text
language sql immutable strict parallel safe as $$
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
  since timestamptz not null default clock_timestamp(),
  primary key (pattern, queue, app)
);
create index if not exists subscriptions_wide on ezq.subscriptions (queue)
  where regex is not null;

create table if not exists ezq.event_parties (
  event_type text collate "C" not null,
  role text not null check (role in ('owner', 'publisher')),
  app text collate "C" not null,
  since timestamptz not null default clock_timestamp(),
  primary key (event_type, role, app)
);

-- The queues that get a copy of an event, each once, in the order in which every publisher locks.
create or replace function ezq.recipients(event_type text) returns setof text
language sql stable as $$
  select s.queue from ezq.subscriptions s where s.pattern = $1
  union
  select s.queue from ezq.subscriptions s
  where s.regex is not null and '.' || $1 ~ s.regex
  order by 1
$$;

-- Stores a copy of an event in every subscribed queue; a row for each. `message_id` is null where the
-- queue does not exist. With a dedupe key it may be that of an earlier message, and
-- `first_event_id` then names that one's event.
create or replace function ezq.broadcast(
  event_type text,
  message jsonb,
  headers jsonb default null,
  after_us bigint default 0,
  due_at timestamptz default null,
  dedupe_key text default null,
  window_us bigint default null,
  event_id text default null
) returns table (queue text, message_id bigint, first_event_id text)
language plpgsql as $$
#variable_conflict use_variable
declare
  target text;
  due timestamptz;
  drawn bigint;
begin
  for queue in select r from ezq.recipients(event_type) r loop
    target := 'pgmq.q_' || queue;
    message_id := null;
    first_event_id := null;
    due := greatest(clock_timestamp() + after_us * interval '1 us', due_at);
    if to_regclass(target) is null then
      null;
    elsif dedupe_key is null then
      execute format(
        'insert into %s (vt, message, headers) values ($1, $2, $3) returning msg_id', target)
      using due, message, headers into message_id;
    else
      drawn := nextval(pg_get_serial_sequence(target, 'msg_id')::regclass);
      insert into ezq.dedupe as d
        (queue, key, queue_table, message_id, event_id, taken_at, free_at)
      select queue, dedupe_key, target::regclass::oid, drawn, event_id, now.at,
             now.at + window_us * interval '1 us'
      from (select clock_timestamp() as at) now
      on conflict on constraint dedupe_pkey do update set
        (queue_table, message_id, event_id, taken_at, free_at) = (
          select case when is_free then excluded.queue_table else d.queue_table end,
                 case when is_free then excluded.message_id else d.message_id end,
                 case when is_free then excluded.event_id else d.event_id end,
                 case when is_free then excluded.taken_at else d.taken_at end,
                 case when is_free then excluded.free_at else d.free_at end
          from (select d.free_at <= excluded.taken_at
                    or d.queue_table <> excluded.queue_table as is_free) f)
      returning d.message_id, d.event_id into message_id, first_event_id;
      if message_id = drawn then
        first_event_id := null;
        execute format(
          'insert into %s (msg_id, vt, message, headers) overriding system value
           values ($1, $2, $3, $4)', target)
        using drawn, due, message, headers;
      end if;
    end if;
    return next;
  end loop;
end
$$;
