SELECT CASE WHEN first.due IS NOT NULL THEN pg_catalog.ceil(1000000 * extract(epoch FROM
         least(greatest(first.due, pg_catalog.statement_timestamp()),
               pg_catalog.statement_timestamp() + interval '1 year')
         - pg_catalog.statement_timestamp()))::bigint END AS wait_us
FROM unnest(ARRAY[
  CASE WHEN pg_catalog.has_table_privilege('pgmq.q_orders'::regclass, 'UPDATE')
    THEN (SELECT c.vt FROM pgmq.q_orders c ORDER BY c.vt LIMIT 1) ELSE '-infinity' END,
  CASE WHEN pg_catalog.has_table_privilege('pgmq.q_mail'::regclass, 'UPDATE')
    THEN (SELECT c.vt FROM pgmq.q_mail c ORDER BY c.vt LIMIT 1) ELSE '-infinity' END
]::timestamptz[]) WITH ORDINALITY AS first(due, place)
ORDER BY first.place
