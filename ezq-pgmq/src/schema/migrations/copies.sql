-- Stores a copy of an event in every subscribed queue; a row for each. `message_id` is null where the
-- queue does not exist. With a dedupe key it may be that of an earlier message, and
-- `first_event_id` then names that one's event. A message with a key is stored at the time at which
-- its key is taken: number and time are its id.
create or replace function ezq.store_copies(
  event_type text,
  message jsonb,
  headers jsonb default null,
  after_us bigint default 0,
  due_at timestamptz default null,
  dedupe_key text default null,
  window_us bigint default null,
  event_id text default null
) returns table (queue text, message_id bigint, stored_at timestamptz, first_event_id text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  target text;
  at timestamptz;
  due timestamptz;
  drawn bigint;
begin
  for queue in select r from ezq.recipients(event_type) r loop
    target := 'pgmq.' || quote_ident('q_' || queue);
    message_id := null;
    stored_at := null;
    first_event_id := null;
    at := clock_timestamp();
    due := greatest(at + after_us * interval '1 us', due_at);
    if to_regclass(target) is null then
      null;
    elsif dedupe_key is null then
      execute format(
        'insert into %s (vt, message, headers) values ($1, $2, $3) returning msg_id, enqueued_at',
        target)
      using due, message, headers into message_id, stored_at;
    else
      drawn := nextval(pg_get_serial_sequence(target, 'msg_id')::regclass);
      insert into ezq.dedupe as d
        (queue, key, queue_table, message_id, event_id, taken_at, free_at)
      values (queue, dedupe_key, target::regclass::oid, drawn, event_id, at,
              at + window_us * interval '1 us')
      on conflict on constraint dedupe_pkey do update set
        (queue_table, message_id, event_id, taken_at, free_at) = (
          select excluded.queue_table,
                 case when is_free then excluded.message_id else d.message_id end,
                 case when is_free then excluded.event_id else d.event_id end,
                 case when is_free then excluded.taken_at else d.taken_at end,
                 case when is_free then excluded.free_at else d.free_at end
          from (select d.free_at <= excluded.taken_at as is_free) f)
      returning d.message_id, d.taken_at, d.event_id into message_id, stored_at, first_event_id;
      if (message_id, stored_at) = (drawn, at) then
        first_event_id := null;
        execute format(
          'insert into %s (msg_id, vt, enqueued_at, message, headers) overriding system value
           values ($1, $2, $3, $4, $5)', target)
        using drawn, due, at, message, headers;
      end if;
    end if;
    return next;
  end loop;
end
$$;

-- The same for other clients, without the time.
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
language sql set search_path = pg_catalog, pg_temp as $$
  select c.queue, c.message_id, c.first_event_id
  from ezq.store_copies($1, $2, $3, $4, $5, $6, $7, $8) c
$$;
