SELECT c.table_name,
  c.column_name,
  c.is_nullable = 'YES' OR c.extra LIKE '%auto_increment%' OR c.extra LIKE '% GENERATED',
  c.column_default IS NOT NULL OR c.extra <> '',
  COALESCE(k.seq_in_index, 0),
  COALESCE(t.engine, t.table_type),
  u.name,
  c.column_type
FROM information_schema.columns c
JOIN information_schema.tables t
  ON t.table_schema = c.table_schema AND t.table_name = c.table_name
LEFT JOIN information_schema.statistics k
  ON k.table_schema = c.table_schema
  AND k.table_name = c.table_name
  AND k.column_name = c.column_name
  AND k.index_name = 'PRIMARY'
LEFT JOIN (
  SELECT table_name, MIN(index_name) AS name
  FROM information_schema.statistics
  WHERE table_schema = ? AND non_unique = 0 AND index_name <> 'PRIMARY'
  GROUP BY table_name
) u ON u.table_name = c.table_name
WHERE c.table_schema = ?
