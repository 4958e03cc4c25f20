WITH place AS (
  SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace n
  WHERE n.nspname = coalesce(nullif($1, ''), pg_catalog.current_schema()::text)
), mine AS (
  SELECT c.oid, c.relname::text AS name
  FROM pg_catalog.pg_class c JOIN place p ON p.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p')
), rights AS (
  SELECT name, oid, pg_catalog.concat_ws(', ',
    CASE WHEN NOT pg_catalog.has_table_privilege(oid, 'SELECT') THEN 'SELECT' END,
    CASE WHEN NOT pg_catalog.has_table_privilege(oid, 'INSERT') THEN 'INSERT' END,
    CASE WHEN NOT pg_catalog.has_table_privilege(oid, 'UPDATE') THEN 'UPDATE' END,
    CASE WHEN NOT pg_catalog.has_table_privilege(oid, 'DELETE') THEN 'DELETE' END) AS missing
  FROM mine
)
SELECT '', CASE WHEN EXISTS (SELECT FROM mine WHERE name LIKE '%\_eds\_checkpoint') THEN '' ELSE 'problem' END,
  'no table can be made in schema ' || pg_catalog.quote_ident(nspname) || ': the right CREATE is missing',
  'GRANT CREATE ON SCHEMA ' || pg_catalog.quote_ident(nspname) || ' TO ' || pg_catalog.quote_ident(current_user)
FROM place WHERE NOT pg_catalog.has_schema_privilege(oid, 'CREATE')
UNION ALL
SELECT name, 'problem', 'rows cannot be written: the right ' || missing || ' is missing',
  'GRANT ' || missing || ' ON ' || oid::pg_catalog.regclass::text || ' TO ' || pg_catalog.quote_ident(current_user)
FROM rights WHERE missing <> ''
UNION ALL
SELECT name, 'problem', 'row level security applies to EDS: policies may hide rows from it',
  'ALTER ROLE ' || pg_catalog.quote_ident(current_user) || ' BYPASSRLS'
FROM mine WHERE pg_catalog.row_security_active(oid)
UNION ALL
SELECT m.name, '', 'it has triggers, which run for each row and may refuse it: '
    || pg_catalog.string_agg(t.tgname::text, ', ' ORDER BY t.tgname),
  'keep them cheap, or ALTER TABLE ' || m.oid::pg_catalog.regclass::text || ' DISABLE TRIGGER USER'
FROM mine m JOIN pg_catalog.pg_trigger t ON t.tgrelid = m.oid
WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'
GROUP BY m.name, m.oid
ORDER BY 1, 3
