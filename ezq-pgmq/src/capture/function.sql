
declare
  config constant jsonb := {config};
  operation constant text := case tg_op when 'INSERT' then 'created' when 'UPDATE' then 'updated'
                                         when 'DELETE' then 'deleted' else 'truncated' end;
  event_type constant text := (config ->> 'name') || '.' || operation;
  began constant timestamptz := clock_timestamp();
  opening text := '';
  closing text := ' r';
  queues text[];
  lines text;
begin
  case tg_op
    when 'TRUNCATE' then found := true;
    when 'DELETE' then perform from ezq_old limit 1;
    else perform from ezq_new limit 1;
  end case;
  if not found then return null; end if;

  if config ? 'queue' then
    queues := array[config ->> 'queue'];
    if to_regclass('pgmq.q_' || queues[1]) is null then
      raise exception using errcode = 'undefined_table',
        message = format('the queue "%s" that gets the changes of %s is gone', queues[1], tg_relid::regclass),
        hint = 'Create it with pgmq.create, or remove the capture of the table.';
    end if;
  else
    queues := array(select r from ezq.recipients(event_type) r
                    where to_regclass('pgmq.q_' || r) is not null);
    if queues = '{}' then return null; end if;
  end if;

  -- What is left out is not even read: it may be what no jsonb can hold.
  if config ? 'columns' then
    opening := '(select ' || coalesce((
      select string_agg(quote_ident(a.attname), ', ') from pg_attribute a
      where a.attrelid = tg_relid and a.attnum > 0 and not a.attisdropped
        and config -> 'columns' ? a.attname::text), '') || ' from ';
    closing := ') r';
  end if;

  -- The old and the new version of a row stand at the same place of the two tables. A key could
  -- change in the update.
  lines := case tg_op
    when 'INSERT' then
      'select null::jsonb as before, to_jsonb(r.*) as after, row_number() over () as place from '
      || opening || 'ezq_new' || closing
    when 'DELETE' then
      'select to_jsonb(r.*) as before, null::jsonb as after, row_number() over () as place from '
      || opening || 'ezq_old' || closing
    when 'UPDATE' then
      'select o.line as before, n.line as after, place
       from (select to_jsonb(r.*) as line, row_number() over () as place from '
      || opening || 'ezq_old' || closing || ') o
       join (select to_jsonb(r.*) as line, row_number() over () as place from '
      || opening || 'ezq_new' || closing || ') n using (place)
       where o.line <> n.line'
    else 'select null::jsonb as before, null::jsonb as after, 1 as place'
  end;

  execute
    'with line as materialized (' || lines || '),
     message as materialized (
       select place,
         case when coalesce(after, before) ->> $6 is not null
           then jsonb_build_object(''x-pgmq-group'', coalesce(after, before) ->> $6) end as headers,
         jsonb_build_object(
           ''specversion'', ''1.0'',
           ''id'', encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
             placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
             from 1 for 6), 52, 1), 53, 1), ''hex'')::uuid,
           ''source'', $1, ''type'', $2,
           ''time'', to_char($3 at time zone ''UTC'', ''YYYY-MM-DD"T"HH24:MI:SS.US"Z"''),
           ''data'', jsonb_build_object(
             ''schema'', $4, ''table'', $5, ''operation'', $8,
             ''old'', before, ''new'', after, ''transaction'', $7,
             ''changed'', case when before is null or after is null then ''[]'' else (
               select jsonb_agg(key order by key collate "C") from jsonb_each(after)
               where value is distinct from before -> key) end)) as body
       from line)'
    || (select string_agg(format(
         ', %I as (insert into pgmq.%I (vt, message, headers)
            select $3 + (place - 1) * interval ''1 us'', body, headers from message order by place)',
         'into_' || q, 'q_' || q), '') from unnest(queues) q)
    || ' select'
  using config ->> 'source', event_type, began, tg_table_schema::text, tg_table_name::text,
        config ->> 'key', pg_current_xact_id()::text::numeric, operation;
  return null;
end
