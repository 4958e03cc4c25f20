SELECT what FROM (
  SELECT CONCAT('the foreign key ', constraint_name, ' of ', table_name, ' refers to or from it')
    AS what
  FROM information_schema.key_column_usage
  WHERE referenced_table_name IS NOT NULL
    AND ((referenced_table_schema = ? AND referenced_table_name = ?)
      OR (table_schema = ? AND table_name = ?))
  UNION ALL
  SELECT CONCAT('it has the trigger ', trigger_name)
  FROM information_schema.triggers
  WHERE event_object_schema = ? AND event_object_table = ?
  UNION ALL
  SELECT 'it keeps the history of its rows'
  FROM information_schema.tables
  WHERE table_type = 'SYSTEM VERSIONED' AND table_schema = ? AND table_name = ?
  UNION ALL
  SELECT 'it has partitions'
  FROM information_schema.partitions
  WHERE partition_name IS NOT NULL AND table_schema = ? AND table_name = ?
  UNION ALL
  SELECT CONCAT('its column ', column_name, ' has a default or is generated')
  FROM information_schema.columns
  WHERE table_schema = ?
    AND table_name = ?
    AND ((column_default IS NOT NULL AND column_default <> 'NULL') OR extra <> '')
) AS all_of_them
ORDER BY what
LIMIT 1
