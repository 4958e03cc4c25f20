SELECT pg_terminate_backend(l.pid)
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid AND a.usename = current_user
WHERE l.locktype = 'advisory'
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND (l.classid::int8 << 32) | l.objid::int8 = $1
  AND l.objsubid = 1
  AND l.pid <> pg_backend_pid()
