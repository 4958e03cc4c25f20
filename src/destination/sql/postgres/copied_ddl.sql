WITH t AS (
  SELECT c.oid, c.relacl, c.relowner, c.reloptions,
    format('%I.%I', $1::text, $3::text) AS new,
    own.relacl AS new_acl
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class own ON own.relnamespace = n.oid AND own.relname = $3::text
  WHERE n.nspname = $1::text AND c.relname = $2::text
)
SELECT statement FROM (
  SELECT 1 AS nth,
    format('CREATE %sINDEX %I ON %s USING %s',
      CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END,
      '_eds_' || i.indexrelid,
      t.new,
      substr(d.def, strpos(d.def, d.head) + length(d.head))) AS statement
  FROM t
  JOIN pg_catalog.pg_index i ON i.indrelid = t.oid AND NOT i.indisprimary AND i.indisvalid
  CROSS JOIN LATERAL (
    SELECT pg_get_indexdef(i.indexrelid) AS def,
      format(' ON %I.%I USING ', $1::text, $2::text) AS head
  ) d
  WHERE strpos(d.def, d.head) > 0
    AND to_regclass(format('%I.%I', $1::text, '_eds_' || i.indexrelid)) IS NULL
  UNION ALL
  SELECT DISTINCT 2,
    format('REVOKE ALL ON %s FROM %s',
      t.new,
      CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
  FROM t
  CROSS JOIN LATERAL aclexplode(coalesce(t.new_acl, acldefault('r', t.relowner))) a
  WHERE t.relacl IS DISTINCT FROM t.new_acl
  UNION ALL
  SELECT 3,
    format('GRANT %s ON %s TO %s%s',
      a.privilege_type,
      t.new,
      CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
      CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
  FROM t
  CROSS JOIN LATERAL aclexplode(coalesce(t.relacl, acldefault('r', t.relowner))) a
  WHERE t.relacl IS DISTINCT FROM t.new_acl
  UNION ALL
  SELECT 4, format('COMMENT ON TABLE %s IS %L', t.new, d.description)
  FROM t
  JOIN pg_catalog.pg_description d
    ON d.objoid = t.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
  UNION ALL
  SELECT 5, format('COMMENT ON COLUMN %s.%I IS %L', t.new, a.attname, d.description)
  FROM t
  JOIN pg_catalog.pg_description d
    ON d.objoid = t.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid > 0
  JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.objsubid
  UNION ALL
  SELECT 6, format('ALTER TABLE %s SET (%s)', t.new, array_to_string(t.reloptions, ', '))
  FROM t
  WHERE t.reloptions IS NOT NULL
) AS copied
ORDER BY nth, statement
