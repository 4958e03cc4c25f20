//! What the state file has, for people.

use rusqlite::OptionalExtension;

use super::{State, StateError};

impl State {
    /// Every entry's name and a summary, for people.
    pub fn list(&self) -> Result<Vec<(String, String)>, StateError> {
        let db = self.db();
        let mut statement = db.prepare(
            "SELECT 'position/' || consumer, 'stream sequence ' || sequence FROM position
             UNION ALL SELECT 'intent/' || consumer, 'a batch begun up to stream sequence ' || \
             sequence FROM intent
             UNION ALL SELECT 'idle/' || consumer, 'nothing pending at ' || time_ns || ' \
             ns' FROM idle_at
             UNION ALL SELECT 'recent/' || consumer, count(*) || ' chunks, ' || \
             sum(length(entries)) || ' bytes' FROM recent GROUP BY consumer
             UNION ALL SELECT 'table-export/' || table_name, 'imported as of ' || (words ->> \
             'imported_at') FROM cutover WHERE consumer = '' OR \
             substr(consumer, 1, 3) = ' @ '
             UNION ALL SELECT 'import/' || job, 'not finished' FROM import
             UNION ALL SELECT 'schema/' || table_name || '/' || version, length(json) || ' bytes' \
             FROM schema ORDER BY 1",
        )?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<Result<_, _>>().map_err(StateError::from)
    }

    /// One entry of [`State::list`] in full, as JSON; `None` if there is none of that name.
    pub fn get(&self, name: &str) -> Result<Option<String>, StateError> {
        let db = self.db();
        let (sql, key) = match name.split_once('/') {
            Some(("position", key)) => (
                "SELECT json_object('sequence', sequence, 'time_ns', \
                time_ns) FROM position WHERE consumer = ?1",
                key,
            ),
            Some(("intent", key)) => (
                "SELECT json_object('sequence', sequence, 'time_ns', \
                time_ns) FROM intent WHERE consumer = ?1",
                key,
            ),
            Some(("idle", key)) => {
                ("SELECT json_object('time_ns', time_ns) FROM idle_at WHERE consumer = ?1", key)
            }
            Some(("recent", key)) => (
                "SELECT json_object('chunks', count(*), 'rows', sum(length(entries)) / 28, \
                 'through', max(sequence)) FROM recent
                 WHERE consumer = ?1 GROUP BY consumer",
                key,
            ),
            Some(("table-export", key)) => (
                "SELECT words FROM cutover WHERE (consumer = '' OR substr(consumer, 1, 3) = ' @ ') AND \
                table_name = ?1",
                key,
            ),
            Some(("import", key)) => (
                "SELECT json_object('choice', choice, 'files', (SELECT count(*) FROM \
                  import_progress p WHERE p.job = i.job AND done)) FROM import i \
                  WHERE job = ?1",
                key,
            ),
            Some(("schema", key)) => {
                ("SELECT json FROM schema WHERE table_name || '/' || version = ?1", key)
            }
            _ => return Ok(None),
        };
        Ok(db.query_row(sql, [key], |row| row.get(0)).optional()?)
    }
}
