SELECT CASE
    WHEN to_regclass(format('%I.%I', n.nspname, '_eds_' || i.indexrelid)) IS NULL
      THEN pg_get_indexdef(i.indexrelid)
    ELSE format('ALTER INDEX %I.%I RENAME TO %I', n.nspname, '_eds_' || i.indexrelid, x.relname)
  END
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND NOT i.indisprimary AND i.indisvalid
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
WHERE n.nspname = $1 AND c.relname = $2
