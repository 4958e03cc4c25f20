SELECT DISTINCT format('session %s (user %s, %s, %s since %s)', a.pid, a.usename,
  coalesce(nullif(a.application_name, ''), 'unnamed'), a.state, a.state_change::timestamptz(0))
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
JOIN pg_catalog.pg_class c ON c.oid = l.relation
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE l.granted AND n.nspname = $1 AND c.relname = ANY($2) AND a.pid <> pg_backend_pid()
