SELECT DISTINCT t.processlist_id, t.processlist_user, t.processlist_host
FROM performance_schema.metadata_locks m
JOIN performance_schema.threads t ON t.thread_id = m.owner_thread_id
WHERE m.object_schema = ?
  AND m.object_name = ?
  AND m.lock_status = 'GRANTED'
  AND t.processlist_id <> CONNECTION_ID()
