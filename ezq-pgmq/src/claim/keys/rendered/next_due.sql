WITH missed AS (
               SELECT pg_catalog.statement_timestamp() AS at FROM pgmq.q_orders c
               WHERE c.vt <= pg_catalog.statement_timestamp() AND c.headers ->> 'x-pgmq-group'::text IS NULL AND (NOT (c.read_ct > 0 AND coalesce(c.last_read_at < pg_catalog.pg_postmaster_start_time(), true)) OR (CASE WHEN pg_catalog.pg_postmaster_start_time() <= pg_catalog.statement_timestamp() THEN pg_catalog.pg_postmaster_start_time() + $1::float8 * interval '1 us' ELSE '-infinity' END) <= pg_catalog.statement_timestamp())
               ORDER BY c.vt LIMIT 1 FOR UPDATE SKIP LOCKED)
             SELECT CASE WHEN next.at IS NOT NULL THEN pg_catalog.ceil(1000000 * extract(epoch FROM
               least(greatest(next.at, pg_catalog.statement_timestamp()), pg_catalog.statement_timestamp() + interval '1 year')
               - pg_catalog.statement_timestamp()))::bigint END AS wait_us,
               pg_catalog.statement_timestamp() AS asked_at
             FROM (SELECT least(
               (SELECT at FROM missed),
               (SELECT n.vt FROM (
               SELECT c.vt, c.headers ->> 'x-pgmq-group'::text IS NULL OR c.read_ct > 0 OR NOT EXISTS (SELECT FROM pgmq.q_orders e WHERE e.headers ->> 'x-pgmq-group'::text IS NOT NULL AND pg_catalog.hashtextextended(e.headers ->> 'x-pgmq-group'::text, 0) = pg_catalog.hashtextextended(c.headers ->> 'x-pgmq-group'::text, 0) AND e.msg_id < c.msg_id) AS counts, row_number() OVER () AS place
               FROM (SELECT * FROM pgmq.q_orders c WHERE c.vt > $2
                     ORDER BY c.vt LIMIT 100) c) n
             WHERE n.counts OR n.place = 100 ORDER BY n.vt LIMIT 1),
               CASE WHEN (CASE WHEN pg_catalog.pg_postmaster_start_time() <= pg_catalog.statement_timestamp() THEN pg_catalog.pg_postmaster_start_time() + $1::float8 * interval '1 us' ELSE '-infinity' END) > pg_catalog.statement_timestamp() AND EXISTS (
                 SELECT FROM pgmq.q_orders c WHERE c.vt <= pg_catalog.statement_timestamp() AND c.read_ct > 0 AND coalesce(c.last_read_at < pg_catalog.pg_postmaster_start_time(), true))
               THEN (CASE WHEN pg_catalog.pg_postmaster_start_time() <= pg_catalog.statement_timestamp() THEN pg_catalog.pg_postmaster_start_time() + $1::float8 * interval '1 us' ELSE '-infinity' END) END
             ) AS at) next
