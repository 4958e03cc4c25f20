SELECT COUNT(*) FROM (
  SELECT grantee
  FROM information_schema.user_privileges
  WHERE privilege_type = 'TRIGGER'
  UNION ALL
  SELECT grantee
  FROM information_schema.schema_privileges
  WHERE privilege_type = 'TRIGGER' AND ? LIKE table_schema
  UNION ALL
  SELECT grantee
  FROM information_schema.table_privileges
  WHERE privilege_type = 'TRIGGER' AND table_schema = ? AND table_name = ?
) AS granted
WHERE grantee = CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''')
