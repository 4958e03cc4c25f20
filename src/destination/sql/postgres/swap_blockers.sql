WITH t AS (
  SELECT c.oid, c.reltype, c.relkind, c.relowner, c.relreplident, c.relrowsecurity
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = $1 AND c.relname = $2
)
SELECT what FROM (
  SELECT 1 AS nth, format('the view %s depends on it', v.oid::regclass) AS what
  FROM t
  JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
  JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
  JOIN pg_catalog.pg_class v ON v.oid = r.ev_class
  WHERE r.ev_class <> t.oid
  UNION ALL
  SELECT 2, format('it has the rule %I', r.rulename)
  FROM t
  JOIN pg_catalog.pg_rewrite r ON r.ev_class = t.oid
  UNION ALL
  SELECT 3, format('the foreign key %I of %s refers to it', k.conname, k.conrelid::regclass)
  FROM t
  JOIN pg_catalog.pg_constraint k ON k.confrelid = t.oid
  UNION ALL
  SELECT 4, format('it has the constraint %I', k.conname)
  FROM t
  JOIN pg_catalog.pg_constraint k ON k.conrelid = t.oid AND k.contype NOT IN ('p', 'n')
  UNION ALL
  SELECT 5, format('it has the trigger %I', g.tgname)
  FROM t
  JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
  UNION ALL
  SELECT 6, 'it has policies of row level security'
  FROM t
  WHERE t.relrowsecurity
    OR EXISTS (SELECT 1 FROM pg_catalog.pg_policy p WHERE p.polrelid = t.oid)
  UNION ALL
  SELECT 7, 'it is part of an inheritance or of partitions'
  FROM t
  WHERE t.relkind = 'p'
    OR EXISTS (
      SELECT 1 FROM pg_catalog.pg_inherits i WHERE i.inhrelid = t.oid OR i.inhparent = t.oid
    )
  UNION ALL
  SELECT 8, 'a publication names it'
  FROM t
  WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_publication_rel p WHERE p.prrelid = t.oid)
  UNION ALL
  SELECT 9, 'a function or another table uses its row type'
  FROM t
  JOIN pg_catalog.pg_depend d
    ON d.refclassid = 'pg_type'::regclass AND d.refobjid = t.reltype AND d.deptype = 'n'
  UNION ALL
  SELECT 10, format('its column %I has a default or is generated', a.attname)
  FROM t
  JOIN pg_catalog.pg_attribute a
    ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
  WHERE a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> ''
  UNION ALL
  SELECT 11, format('its column %I has rights of its own', a.attname)
  FROM t
  JOIN pg_catalog.pg_attribute a
    ON a.attrelid = t.oid AND a.attacl IS NOT NULL AND NOT a.attisdropped
  UNION ALL
  SELECT 12, 'it has a replica identity of its own'
  FROM t
  WHERE t.relreplident <> 'd'
  UNION ALL
  SELECT 13, 'it has extended statistics'
  FROM t
  WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_statistic_ext s WHERE s.stxrelid = t.oid)
  UNION ALL
  SELECT 14, format('%s depends on it', pg_describe_object(d.classid, d.objid, d.objsubid))
  FROM t
  JOIN pg_catalog.pg_depend d
    ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.deptype = 'n'
  UNION ALL
  SELECT 15, 'it belongs to another user'
  FROM t
  WHERE t.relowner <> (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user)
) AS all_of_them
ORDER BY nth, what
LIMIT 1
