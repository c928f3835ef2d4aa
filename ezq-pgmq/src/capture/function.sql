
declare
  config constant jsonb := {config};
  operation constant text := case tg_op when 'INSERT' then 'created' when 'UPDATE' then 'updated'
                                         when 'DELETE' then 'deleted' else 'truncated' end;
  event_type constant text := (config ->> 'name') || '.' || operation;
  began constant timestamptz := clock_timestamp();
  opening text := '';
  closing text := ' r';
  queues text[];
  refused text[];
  as_text text[] := '{}';
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
    if to_regclass('pgmq.' || quote_ident('q_' || queues[1])) is null then
      raise exception using errcode = 'undefined_table',
        message = format('the queue "%s" that gets the changes of %s is gone', queues[1], tg_relid::regclass),
        hint = 'Create it with pgmq.create, or remove the capture of the table.';
    end if;
  else
    queues := array(select r from ezq.recipients(event_type) r
                    where to_regclass('pgmq.' || quote_ident('q_' || r)) is not null);
  end if;

  -- A queue's table runs its owner's code with the rights of whoever inserts: triggers, defaults,
  -- constraints. A superuser's are lent to no one else.
  if (select rolsuper from pg_roles where rolname = current_user) then
    refused := array(
      select q from unnest(queues) q join pg_class c on c.oid = to_regclass('pgmq.' || quote_ident('q_' || q))
      where exists (
        select from (select c.relowner as owner
                     union all
                     select p.proowner from pg_trigger t join pg_proc p on p.oid = t.tgfoid
                     where t.tgrelid = c.oid and not t.tgisinternal) o
        join pg_roles r on r.oid = o.owner where not r.rolsuper));
    if refused <> '{}' then
      if config ? 'queue' then
        raise exception using errcode = 'insufficient_privilege',
          message = format('the queue "%s" runs code of a role that is no superuser, and %s is captured with the rights of one',
                           refused[1], tg_relid::regclass),
          hint = 'Capture the table as another role.';
      end if;
      raise warning using
        message = format('changes of %s, which is captured with a superuser''s rights, are not stored in queues that run code of another role: %s',
                         tg_relid::regclass, array_to_string(refused, ', ')),
        hint = 'Capture the table as another role.';
      queues := array(select q from unnest(queues) q where q <> all (refused));
    end if;
  end if;
  if queues = '{}' then return null; end if;

  -- to_jsonb converts a value by the cast to json that its type has, which the type's owner made:
  -- code that would run with the rights of this function. So of a type of another role, unless that
  -- is a superuser, the value is told as the type writes it. Who has made which cast is not asked:
  -- one could be made meanwhile. Types that come with Postgres have no such casts.
  if exists (select from pg_attribute a where a.attrelid = tg_relid and a.attnum > 0
             and not a.attisdropped and a.atttypid >= 16384) then
    with recursive part as (
      select a.attname, a.atttypid as type from pg_attribute a
      where a.attrelid = tg_relid and a.attnum > 0 and not a.attisdropped and a.atttypid >= 16384
      union
      select p.attname, n.type
      from part p join pg_type t on t.oid = p.type
      cross join lateral (
        select t.typelem where t.typcategory = 'A'
        union all select t.typbasetype where t.typtype = 'd'
        union all select a.atttypid from pg_attribute a
                  where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped) n(type)
      where n.type >= 16384)
    select coalesce(array_agg(distinct p.attname::text), '{}')
    from part p join pg_type t on t.oid = p.type join pg_roles r on r.oid = t.typowner
    where t.typtype not in ('c', 'd') and t.typcategory <> 'A'
      and not (r.rolsuper or r.rolname = current_user)
    into as_text;
  end if;

  -- What is left out is not even read: it may be what no jsonb can hold.
  if config ? 'columns' or as_text <> '{}' then
    opening := '(select ' || coalesce((
      select string_agg(case
          when a.attname::text <> all (as_text) then format('t.%1$I', a.attname)
          else format('case num_nulls(t.%1$I) when 0 then format(''%%s'', t.%1$I)%2$s end as %1$I',
                      a.attname, case t.typcategory when 'A' then '::text[]' else '' end)
        end, ', ' order by a.attnum)
      from pg_attribute a join pg_type t on t.oid = a.atttypid
      where a.attrelid = tg_relid and a.attnum > 0 and not a.attisdropped
        and (not config ? 'columns' or config -> 'columns' ? a.attname::text)), '') || ' from ';
    closing := ' t) r';
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
