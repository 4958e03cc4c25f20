SELECT c.relname::text,
  a.attname::text,
  NOT a.attnotnull OR a.attidentity <> '',
  a.atthasdef OR a.attidentity <> '',
  coalesce(array_position(i.indkey::int2[], a.attnum) + 1, 0)::int8,
  c.relkind NOT IN ('r', 'p'),
  pg_catalog.format_type(a.atttypid, a.atttypmod)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
