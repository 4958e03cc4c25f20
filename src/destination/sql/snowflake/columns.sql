SELECT c.table_name, c.column_name, c.is_nullable, c.column_default, t.table_type,
  c.data_type, c.numeric_scale
FROM information_schema.columns AS c
INNER JOIN information_schema.tables AS t
  ON t.table_schema = c.table_schema AND t.table_name = c.table_name
WHERE c.table_schema = ?
