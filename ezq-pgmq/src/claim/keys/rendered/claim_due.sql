WITH RECURSIVE plain AS (SELECT c.msg_id, c.vt FROM pgmq.q_orders c
             WHERE c.vt <= pg_catalog.statement_timestamp() AND c.headers ->> 'x-pgmq-group'::text IS NULL AND (NOT (c.read_ct > 0 AND coalesce(c.last_read_at < pg_catalog.pg_postmaster_start_time(), true)) OR (CASE WHEN pg_catalog.pg_postmaster_start_time() <= pg_catalog.statement_timestamp() THEN pg_catalog.pg_postmaster_start_time() + $1::float8 * interval '1 us' ELSE '-infinity' END) <= pg_catalog.statement_timestamp()) ORDER BY c.vt LIMIT $4 FOR UPDATE SKIP LOCKED),
             room AS (SELECT $2 - count(*) AS n FROM plain),
             due AS MATERIALIZED (
               SELECT pg_catalog.hashtextextended(d.headers ->> 'x-pgmq-group'::text, 0) AS key, d.vt FROM pgmq.q_orders d
               WHERE d.vt <= statement_timestamp() ORDER BY d.vt LIMIT least(1000, greatest(200, 4 * least($2, $6)))),
             walk AS (
               SELECT k.place, k.count, k.key, h.msg_id, h.ok
               FROM (SELECT key, count(*) AS count, row_number() OVER (ORDER BY min(vt)) AS place
                     FROM due WHERE key IS NOT NULL GROUP BY key ORDER BY min(vt) OFFSET 0) k
               CROSS JOIN LATERAL (SELECT f.key, f.msg_id, f.is_ready AND NOT EXISTS (SELECT FROM pgmq.q_orders l WHERE l.headers ->> 'x-pgmq-group'::text IS NOT NULL AND pg_catalog.hashtextextended(l.headers ->> 'x-pgmq-group'::text, 0) = f.key AND l.read_ct > 0 AND greatest(l.vt, '-infinity') > pg_catalog.statement_timestamp() AND CASE WHEN (l.headers -> 'ezq-returned'::text)::text ~ '^[0-9]{1,9}$' THEN (l.headers ->> 'ezq-returned'::text)::bigint ELSE 0 END < l.read_ct OFFSET 0) AS ok
             FROM (SELECT pg_catalog.hashtextextended(h.headers ->> 'x-pgmq-group'::text, 0) AS key, h.msg_id,
                          h.vt <= statement_timestamp() AND (NOT (h.read_ct > 0 AND coalesce(h.last_read_at < pg_catalog.pg_postmaster_start_time(), true)) OR (CASE WHEN pg_catalog.pg_postmaster_start_time() <= pg_catalog.statement_timestamp() THEN pg_catalog.pg_postmaster_start_time() + $1::float8 * interval '1 us' ELSE '-infinity' END) <= pg_catalog.statement_timestamp()) AS is_ready
                   FROM pgmq.q_orders h WHERE h.headers ->> 'x-pgmq-group'::text IS NOT NULL AND pg_catalog.hashtextextended(h.headers ->> 'x-pgmq-group'::text, 0) = k.key
                   ORDER BY pg_catalog.hashtextextended(h.headers ->> 'x-pgmq-group'::text, 0), h.msg_id LIMIT 1 OFFSET 0) f OFFSET 0) h
               WHERE h.ok LIMIT least($6, (SELECT n FROM room))),
             each AS (
               SELECT (r.n + count(*) - 1) / count(*) AS n
               FROM walk w CROSS JOIN room r WHERE w.ok GROUP BY r.n),
             runs AS (SELECT w.place, m.msg_id, m.vt, m.rank
             FROM walk w CROSS JOIN LATERAL (
               SELECT x.msg_id, x.vt, row_number() OVER o AS rank,
                      bool_and(x.is_ready AND x.rises) OVER o AS ok
               FROM (SELECT y.*, coalesce(y.vt >= lag(y.vt) OVER (ORDER BY y.msg_id), true) AS rises
                     FROM (SELECT q.msg_id, q.vt,
                                  q.vt <= statement_timestamp() AND (NOT (q.read_ct > 0 AND coalesce(q.last_read_at < pg_catalog.pg_postmaster_start_time(), true)) OR (CASE WHEN pg_catalog.pg_postmaster_start_time() <= pg_catalog.statement_timestamp() THEN pg_catalog.pg_postmaster_start_time() + $1::float8 * interval '1 us' ELSE '-infinity' END) <= pg_catalog.statement_timestamp()) AS is_ready
                           FROM pgmq.q_orders q
                           WHERE q.headers ->> 'x-pgmq-group'::text IS NOT NULL AND pg_catalog.hashtextextended(q.headers ->> 'x-pgmq-group'::text, 0) = w.key AND q.msg_id >= w.msg_id
                           ORDER BY pg_catalog.hashtextextended(q.headers ->> 'x-pgmq-group'::text, 0), q.msg_id
                           LIMIT greatest((SELECT n FROM each), least($5, w.count))) y) x
               WINDOW o AS (ORDER BY x.msg_id)) m
             WHERE w.ok AND m.ok ORDER BY m.rank > 1, m.vt, m.msg_id LIMIT (SELECT n FROM room)),
             held AS (
               SELECT r.* FROM runs r CROSS JOIN LATERAL (
                 SELECT FROM pgmq.q_orders q WHERE q.msg_id = r.msg_id AND q.vt IS NOT DISTINCT FROM r.vt
                 FOR UPDATE SKIP LOCKED) l),
             whole AS (
               SELECT h.*, row_number() OVER (PARTITION BY h.place ORDER BY h.rank) AS got
               FROM held h),
             picked AS (
               SELECT msg_id, vt FROM plain
               UNION ALL SELECT msg_id, vt FROM whole WHERE got = rank),
             claimed AS (UPDATE pgmq.q_orders q
             SET read_ct = q.read_ct + 1, vt = (SELECT pg_catalog.date_bin('262144 us', pg_catalog.clock_timestamp() + $3 * interval '1 us' + interval '262066 us', 'epoch'::timestamptz) + interval '77 us'), last_read_at = pg_catalog.clock_timestamp()
             WHERE q.msg_id = ANY (ARRAY(SELECT msg_id FROM picked))
             RETURNING q.msg_id, q.read_ct, (q.read_ct + (CASE WHEN (q.headers -> 'ezq-returned'::text)::text ~ '^[0-9]{1,9}$' THEN (q.headers ->> 'ezq-returned'::text)::bigint ELSE 0 END << 32)) AS fence, q.tableoid::bigint AS rel, least(greatest((ARRAY(SELECT vt FROM picked ORDER BY msg_id))[pg_catalog.width_bucket(q.msg_id, ARRAY(SELECT msg_id FROM picked ORDER BY msg_id))], '0001-01-01 00:00Z'), '9999-12-31 00:00Z'::timestamptz) AS due,
                       least(greatest(q.enqueued_at, '0001-01-01 00:00Z'), '9999-12-31 00:00Z'::timestamptz) AS enqueued_at, pg_catalog.clock_timestamp() AS leased_at,
                       q.message::text AS body, q.headers::text AS headers, pg_catalog.hashtextextended(q.headers ->> 'x-pgmq-group'::text, 0) AS key)
             SELECT s.reached, s.is_all, statement_timestamp() AS asked_at, c.*
             FROM (SELECT 0::bigint AS reached, count(*) < least(1000, greatest(200, 4 * least($2, $6))) AS is_all FROM due) s LEFT JOIN claimed c ON true
