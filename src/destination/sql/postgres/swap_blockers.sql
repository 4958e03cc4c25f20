WITH t AS (
  SELECT c.*
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = $1 AND c.relname = $2
),
new AS (
  SELECT c.*
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = $1 AND c.relname = $3
),
columns AS (
  SELECT a.attrelid, a.attname, a.attnotnull,
    row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum) AS place,
    concat_ws(' ', a.atttypid, a.atttypmod, a.attcollation, a.attstorage,
      to_jsonb(a) ->> 'attcompression') AS kind
  FROM pg_catalog.pg_attribute a
  WHERE a.attrelid IN (SELECT oid FROM t UNION ALL SELECT oid FROM new)
    AND a.attnum > 0
    AND NOT a.attisdropped
),
indexes AS (
  SELECT i.*, x.relname, x.relowner, x.reloptions, x.reltablespace
  FROM t
  JOIN pg_catalog.pg_index i ON i.indrelid = t.oid
  JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
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
    OR t.relforcerowsecurity
    OR EXISTS (SELECT 1 FROM pg_catalog.pg_policy p WHERE p.polrelid = t.oid)
  UNION ALL
  SELECT 7, 'it is part of an inheritance or of partitions'
  FROM t
  WHERE t.relkind <> 'r'
    OR t.reloftype <> 0
    OR EXISTS (
      SELECT 1 FROM pg_catalog.pg_inherits i WHERE i.inhrelid = t.oid OR i.inhparent = t.oid
    )
  UNION ALL
  SELECT 8, format('the publication %I has it', p.pubname)
  FROM pg_catalog.pg_publication_tables p
  WHERE p.schemaname = $1 AND p.tablename = $2
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
  UNION ALL
  SELECT 16, 'its rights were given by others than its owner'
  FROM t
  WHERE EXISTS (SELECT 1 FROM aclexplode(t.relacl) a WHERE a.grantor <> t.relowner)
  UNION ALL
  SELECT 17, format('the sequence %s belongs to it', d.objid::regclass)
  FROM t
  JOIN pg_catalog.pg_depend d
    ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.classid = d.refclassid
  JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  UNION ALL
  SELECT 18, 'it is part of an extension'
  FROM t
  JOIN pg_catalog.pg_depend d
    ON d.classid = 'pg_class'::regclass AND d.objid = t.oid AND d.deptype IN ('e', 'x')
  UNION ALL
  SELECT 19, 'it has a security label'
  FROM t
  WHERE EXISTS (
    SELECT 1 FROM pg_catalog.pg_seclabel l
    WHERE l.classoid = 'pg_class'::regclass AND l.objoid = t.oid
  )
  UNION ALL
  SELECT 20, 'a subscription fills it'
  FROM t
  WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_subscription_rel s WHERE s.srrelid = t.oid)
  UNION ALL
  SELECT 21, 'it is unlogged'
  FROM t
  WHERE t.relpersistence <> 'p'
  UNION ALL
  SELECT 22, 'it, or an index of it, is in a tablespace of its own'
  FROM t
  WHERE t.reltablespace <> 0 OR EXISTS (SELECT 1 FROM indexes i WHERE i.reltablespace <> 0)
  UNION ALL
  SELECT 23, 'it has an access method of its own'
  FROM t
  JOIN pg_catalog.pg_am m ON m.oid = t.relam
  WHERE m.amname <> current_setting('default_table_access_method')
  UNION ALL
  SELECT 24, 'its large values have storage options of their own'
  FROM t
  JOIN pg_catalog.pg_class l ON l.oid = t.reltoastrelid
  WHERE l.reloptions IS NOT NULL
  UNION ALL
  SELECT 25, format('its column %I has settings for the planner', a.attname)
  FROM t
  JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
  WHERE a.attoptions IS NOT NULL OR coalesce(a.attstattarget, -1) <> -1
  UNION ALL
  SELECT 26, format('its index %I has a comment, settings for the planner, or orders the table',
    i.relname)
  FROM indexes i
  WHERE i.indisclustered
    OR EXISTS (
      SELECT 1 FROM pg_catalog.pg_description d
      WHERE d.classoid = 'pg_class'::regclass AND d.objoid = i.indexrelid
    )
    OR EXISTS (
      SELECT 1 FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = i.indexrelid AND coalesce(a.attstattarget, -1) <> -1
    )
  UNION ALL
  SELECT 27, format('its primary key %I is not as EDS makes it', k.conname)
  FROM t
  JOIN pg_catalog.pg_constraint k ON k.conrelid = t.oid AND k.contype = 'p'
  JOIN indexes i ON i.indexrelid = k.conindid
  WHERE k.condeferrable
    OR i.reloptions IS NOT NULL
    OR i.indnatts <> i.indnkeyatts
    OR k.conname <> ($2 || '_pkey')::name
    OR EXISTS (
      SELECT 1 FROM pg_catalog.pg_description d
      WHERE d.classoid = 'pg_constraint'::regclass AND d.objoid = k.oid
    )
    OR EXISTS (
      SELECT 1 FROM new JOIN pg_catalog.pg_constraint own ON own.conrelid = new.oid
      WHERE own.contype = 'p' AND pg_get_constraintdef(own.oid) <> pg_get_constraintdef(k.oid)
    )
  UNION ALL
  SELECT 28, format('its column %I has been altered, or its columns are in another order',
    old.attname)
  FROM t
  CROSS JOIN new
  JOIN columns old ON old.attrelid = t.oid
  LEFT JOIN columns own ON own.attrelid = new.oid AND own.place = old.place
  WHERE own.attname IS DISTINCT FROM old.attname
    OR own.kind <> old.kind
    OR (own.attnotnull <> old.attnotnull AND (own.attnotnull OR old.attname <> ALL ($4)))
) AS all_of_them
ORDER BY nth, what
LIMIT 1
