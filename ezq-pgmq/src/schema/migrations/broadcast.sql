-- The functions run with the rights of who publishes, whose search path may lead through a schema in
-- which others create: a function of theirs that fits better must not be found. So each has a path of
-- its own.

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

-- The queues that get a copy of an event, each once, in the order in which every publisher locks.
create or replace function ezq.recipients(event_type text) returns setof text
language sql stable set search_path = pg_catalog, pg_temp as $$
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
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  target text;
  due timestamptz;
  drawn bigint;
begin
  for queue in select r from ezq.recipients(event_type) r loop
    target := 'pgmq.' || quote_ident('q_' || queue);
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
