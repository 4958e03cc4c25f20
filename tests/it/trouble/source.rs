//! The source of the tables, and what each of them has to hold.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::PATIENCE;
use crate::conformance::Database;
use crate::services::eds::{Eds, Running, schema, upsert};
use crate::services::eventually_ok;
use crate::services::nats::Nats;

/// The companies of the events.
const COMPANY: &str = "c1";
/// The eleven tables that are not in trouble.
pub const OTHERS: [&str; 11] = ["u", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "u9", "u10", "u11"];
/// A view of the rows of all of them, by which they are read at one moment.
const OTHERS_VIEW: &str = "others";
/// How many rows each table gets in a round.
const ROUND_ROWS: u64 = 6;

/// By table and key.
type Rows = BTreeMap<(&'static str, u64), u64>;

/// Twelve tables of one source, of which `t` is in trouble.
pub struct Source {
    nats: Nats,
    rows: Rows,
    /// What became of rows of the others, in the order of the stream.
    history: Vec<(&'static str, u64, Option<u64>)>,
    count: u64,
}

impl Source {
    pub async fn new() -> Source {
        Source { nats: Nats::start().await, rows: Rows::new(), history: Vec::new(), count: 0 }
    }

    fn schemas() -> Value {
        let columns = json!({"n": {"type": "integer"}});
        let one = |table: &str| (table.to_owned(), schema(table, "1", columns.clone()));
        Value::Object(OTHERS.into_iter().chain(["t"]).map(one).collect())
    }

    pub fn write(&mut self, table: &'static str, id: u64) -> Value {
        self.count += 1;
        self.became(table, id, Some(self.count));
        row(table, id, self.count)
    }

    pub fn delete(&mut self, table: &'static str, id: u64) -> Value {
        self.became(table, id, None);
        let id = id.to_string();
        json!({"operation": "DELETE", "table": table, "modelVersion": "1", "key": [id], "before": {"id": id}})
    }

    fn became(&mut self, table: &'static str, id: u64, n: Option<u64>) {
        put(&mut self.rows, table, id, n);
        if table != "t" {
            self.history.push((table, id, n));
        }
    }

    /// Inserts, updates and deletes of rows of all tables; those of `round` and the one before.
    pub fn changes(&mut self, round: u64) -> Vec<Value> {
        let mut events = Vec::new();
        for id in round * 10..round * 10 + ROUND_ROWS {
            for table in OTHERS.into_iter().chain(["t"]) {
                events.push(self.write(table, id));
                if round > 0 && id % 3 == 0 {
                    events.push(self.write(table, id - 10));
                }
                if round > 0 && id % 5 == 0 {
                    events.push(self.delete(table, id - 9));
                }
            }
        }
        events
    }

    pub async fn send(&self, events: &[Value]) {
        let message = |event: &Value| {
            let (table, operation) = (&event["table"], &event["operation"]);
            let [table, operation] = [table, operation].map(|v| v.as_str().unwrap_or_default());
            let subject = format!("dbchange.{table}.{operation}.{COMPANY}.l1.PUBLIC.1");
            (subject, event.to_string().into_bytes())
        };
        self.nats.publish(events.iter().map(message)).await;
    }

    /// Two rows of `t`: their keys and values.
    pub fn two_rows(&self) -> [(u64, u64); 2] {
        let mut found = self.rows.iter().filter(|((name, _), _)| *name == "t");
        std::array::from_fn(|_| found.next().map(|((_, id), n)| (*id, *n)).unwrap_or_default())
    }

    /// Waits until `table` holds what it has to.
    pub async fn until_equal(&self, database: &dyn Database, table: &str, running: &Running) {
        let of_table = self.rows.iter().filter(|((name, _), _)| *name == table);
        let mut expected: Vec<_> =
            of_table.map(|((_, id), n)| vec![Some(id.to_string()), Some(n.to_string())]).collect();
        expected.sort();
        eventually_ok(PATIENCE, async || {
            match database.read(table, &["id", "n"]).await == expected {
                true => Ok(()),
                false => Err(format!("{table} is not equal:\n{}", running.log())),
            }
        })
        .await;
    }

    /// Makes the view, once the tables are there.
    pub async fn show_others(&self, database: &dyn Database) {
        let [view, id, n] = [OTHERS_VIEW, "id", "n"].map(|name| database.quoted(name));
        let one = |table: &&str| {
            format!(
                "SELECT '{table}' AS {}, {id}, {n} FROM {}",
                database.quoted("of"),
                database.quoted(table)
            )
        };
        let all: Vec<String> = OTHERS.iter().map(one).collect();
        database.run(&format!("CREATE VIEW {view} AS {}", all.join(" UNION ALL "))).await;
    }

    /// Waits until the others hold what they have to. Whenever they are read meanwhile, they are as
    /// they all were at one moment of the stream: none of them waits while another goes on.
    pub async fn until_others_equal(&self, database: &dyn Database, running: &Running) {
        let moments = self.moments();
        eventually_ok(PATIENCE, async || {
            let found = read_others(database).await;
            assert!(moments.contains(&found), "one of them waits: {found:?}\n{}", running.log());
            match moments.last() == Some(&found) {
                true => Ok(()),
                false => Err(format!("the others are not equal:\n{}", running.log())),
            }
        })
        .await;
    }

    /// What the others held together after each change of the stream.
    fn moments(&self) -> Vec<Rows> {
        let mut rows = Rows::new();
        let after = |(table, id, n): &(&'static str, u64, Option<u64>)| {
            put(&mut rows, table, *id, *n);
            rows.clone()
        };
        std::iter::once(Rows::new()).chain(self.history.iter().map(after)).collect()
    }

    pub fn eds(&self, database: &dyn Database) -> Eds {
        let creds = self.nats.server_creds("trouble", &[COMPANY], None);
        Eds::stream(&self.nats, &creds, &database.url(), &Source::schemas().to_string())
    }
}

/// The event of a row.
pub fn row(table: &str, id: u64, n: u64) -> Value {
    upsert(table, "1", json!({"id": id.to_string(), "n": n}))
}

fn put(rows: &mut Rows, table: &'static str, id: u64, n: Option<u64>) {
    match n {
        Some(n) => rows.insert((table, id), n),
        None => rows.remove(&(table, id)),
    };
}

async fn read_others(database: &dyn Database) -> Rows {
    let mut rows = Rows::new();
    for found in database.read(OTHERS_VIEW, &["of", "id", "n"]).await {
        let text = |i: usize| found[i].clone().unwrap_or_default();
        let number = |i: usize| text(i).parse().unwrap_or_else(|e| panic!("{found:?}: {e}"));
        let table = OTHERS.into_iter().find(|table| *table == text(0));
        let table = table.unwrap_or_else(|| panic!("{found:?}"));
        put(&mut rows, table, number(1), Some(number(2)));
    }
    rows
}
