//! Generates the shop's changes. The same seed brings the same changes; a row is a function of
//! seed, table, number and revision, so a million rows need no memory to be known.

use std::fmt::Write;

use fastrand::Rng;

use super::tables::{self, ShopColumn, ShopKind, ShopTable};
use super::values::{NAMES, ODD, date, words};
use crate::change::Version;

/// Time of the first change, Unix nanoseconds.
const BEGINNING_NS: u64 = 1_720_732_611_000_000_000;
/// Time from one change to the next.
const STEP_NS: u64 = 1_000_000;
const COMPANIES: u64 = 3;

/// What happens to a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// It comes into being, maybe with the key of a deleted one.
    Insert,
    /// It has another revision.
    Update,
    /// It is gone.
    Delete,
}

/// A change, as it is published.
#[derive(Clone, Debug)]
pub struct ShopEvent {
    /// The NATS subject.
    pub subject: String,
    /// The event as JSON.
    pub payload: String,
}

/// Rows of one table: revision by number; `None` where deleted.
#[derive(Clone, Debug, Default)]
struct ShopRows {
    revisions: Vec<(u32, bool)>,
    alive: usize,
}

/// How a shop changes.
#[derive(Clone, Copy, Debug)]
pub struct ShopOptions {
    /// Rows of all tables up to which inserts prevail.
    pub rows: usize,
    /// Of a thousand events, how many are sent again, or again in an older version.
    pub repeats: u32,
}

impl Default for ShopOptions {
    fn default() -> Self {
        ShopOptions { rows: 20_000, repeats: 20 }
    }
}

/// A shop: its tables, and which of their rows exist in which revision. A clone goes on by itself,
/// with the same changes.
#[derive(Clone)]
pub struct Shop {
    /// What [`tables::shop`] returns; `table` in the methods is a place among them.
    pub tables: Vec<ShopTable>,
    seed: u64,
    rng: Rng,
    options: ShopOptions,
    rows: Vec<ShopRows>,
    events: u64,
    /// Time of the first change, Unix nanoseconds.
    beginning_ns: u64,
    /// Events of late, from which repeats are drawn.
    late: Vec<ShopEvent>,
}

impl Shop {
    /// An empty shop.
    pub fn new(seed: u64, options: ShopOptions) -> Shop {
        let tables = tables::shop();
        Shop {
            rows: vec![ShopRows::default(); tables.len()],
            tables,
            seed,
            rng: Rng::with_seed(seed),
            options,
            events: 0,
            beginning_ns: BEGINNING_NS,
            late: Vec::new(),
        }
    }

    /// The schemas in HQ's form, one JSON text per table.
    pub fn schemas(&self) -> Vec<String> {
        self.tables.iter().map(ShopTable::schema).collect()
    }

    /// The schemas as one map, as HQ publishes them.
    pub fn schema_map(&self) -> String {
        let entries: Vec<String> =
            self.tables.iter().map(|t| format!("{:?}:{}", t.name, t.schema())).collect();
        format!("{{{}}}", entries.join(","))
    }

    /// The next change.
    pub fn next_event(&mut self) -> ShopEvent {
        if !self.late.is_empty() && self.rng.u32(..1000) < self.options.repeats {
            return self.late[self.rng.usize(..self.late.len())].clone();
        }
        let table = self.pick_table();
        let alive = self.rows[table].alive;
        let total: usize = self.rows.iter().map(|r| r.alive).sum();
        let act = match self.rng.u32(..100) {
            _ if alive == 0 => Act::Insert,
            n if total < self.options.rows && n < 60 => Act::Insert,
            n if n < 8 => Act::Insert,
            n if n < 92 => Act::Update,
            _ => Act::Delete,
        };
        let event = match act {
            Act::Insert => self.insert(table),
            _ => match self.pick_alive(table) {
                Some(n) => self.change(table, n, act),
                None => self.insert(table),
            },
        };
        if self.late.len() < 64 {
            self.late.push(event.clone());
        } else {
            let at = self.rng.usize(..64);
            self.late[at] = event.clone();
        }
        event
    }

    /// A new row; one in ten keys that were deleted comes back instead.
    fn insert(&mut self, table: usize) -> ShopEvent {
        let known = self.rows[table].revisions.len();
        if known > 0 && self.rng.u32(..10) == 0 {
            let n = self.rng.usize(..known);
            if !self.rows[table].revisions[n].1 {
                return self.change(table, n, Act::Insert);
            }
        }
        self.rows[table].revisions.push((0, false));
        self.change(table, known, Act::Insert)
    }

    /// A new row of the table of that name, for benchmarks; `None` if there is no such table.
    pub fn insert_into(&mut self, table: &str) -> Option<ShopEvent> {
        let index = self.tables.iter().position(|t| t.name == table)?;
        self.rows[index].revisions.push((0, false));
        Some(self.change(index, self.rows[index].revisions.len() - 1, Act::Insert))
    }

    fn pick_table(&mut self) -> usize {
        let sum: u32 = self.tables.iter().map(|t| t.weight).sum();
        let mut at = self.rng.u32(..sum);
        self.tables
            .iter()
            .position(|t| at.checked_sub(t.weight).map(|rest| at = rest).is_none())
            .unwrap_or(0)
    }

    fn pick_alive(&mut self, table: usize) -> Option<usize> {
        let known = self.rows[table].revisions.len();
        // Recent rows change most.
        let from = if self.rng.bool() { known.saturating_sub(50) } else { 0 };
        (0..20)
            .map(|_| self.rng.usize(from..known.max(from + 1)))
            .find(|n| self.rows[table].revisions.get(*n).is_some_and(|r| r.1))
    }

    fn change(&mut self, table: usize, n: usize, act: Act) -> ShopEvent {
        self.events += 1;
        let rows = &mut self.rows[table];
        let before = rows.revisions[n].0;
        match act {
            Act::Delete => (rows.revisions[n].1, rows.alive) = (false, rows.alive - 1),
            Act::Insert => (rows.revisions[n], rows.alive) = ((before + 1, true), rows.alive + 1),
            Act::Update => rows.revisions[n].0 += 1,
        }
        let after = rows.revisions[n].0;
        self.event(table, n as u64, act, before, after)
    }

    fn event(&self, table: usize, n: u64, act: Act, before: u32, after: u32) -> ShopEvent {
        let spec = &self.tables[table];
        let id = self.id(table, n);
        let company = company(self.seed, n);
        let (name, version, event) = (spec.name, &spec.version, self.events);
        let nanos = self.beginning_ns + event * STEP_NS;
        let operation = match act {
            Act::Insert => "INSERT",
            Act::Update => "UPDATE",
            Act::Delete => "DELETE",
        };
        let mut payload = format!(
            r#"{{"operation":"{operation}","id":"e{event:015x}","table":"{name}","key":["gcp-us-west1","{id}"],"modelVersion":"{version}","companyId":"{company}","locationId":"l{company}","region":"gcp-us-west1","#
        );
        if act != Act::Insert {
            let _ = write!(payload, r#""before":{},"#, self.row(table, n, before));
        }
        if act != Act::Delete {
            let _ = write!(payload, r#""after":{},"#, self.row(table, n, after));
        }
        if act == Act::Update {
            payload.push_str(r#""diff":["updatedDate"],"#);
        }
        let _ = write!(
            payload,
            r#""timestamp":{},"mvccTimestamp":"{nanos}.0000000000"}}"#,
            nanos / 1_000_000
        );
        let operation = operation.to_lowercase();
        ShopEvent {
            subject: format!("dbchange.{name}.{operation}.{company}.l{company}.PUBLIC.{id}"),
            payload,
        }
    }

    /// The id of row `n`.
    pub fn id(&self, table: usize, n: u64) -> String {
        format!("{:024x}", u128::from(mix(self.seed, table as u64, n, 0)) << 32 | u128::from(n))
    }

    /// The text of row `n` in this revision.
    pub fn row(&self, table: usize, n: u64, revision: u32) -> String {
        let mut out = String::with_capacity(4096);
        out.push('{');
        for (i, column) in self.tables[table].columns.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            let _ = write!(out, "\"{}\":", column.name);
            self.value(&mut out, table, n, revision, i, column);
        }
        out.push('}');
        out
    }

    fn value(
        &self,
        out: &mut String,
        table: usize,
        n: u64,
        revision_of_row: u32,
        index: usize,
        column: &ShopColumn,
    ) {
        let revision = if column.fixed { 0 } else { u64::from(revision_of_row) };
        let h = mix(self.seed ^ (index as u64) << 48, table as u64, n, revision);
        let kind = column.kind_at(n, revision_of_row);
        let Some(kind) = kind.filter(|_| !(column.nullable && h.is_multiple_of(5))) else {
            return out.push_str("null");
        };
        let r = h >> 8;
        let _ = match kind {
            ShopKind::Id => write!(out, "\"{}\"", self.id(table, n)),
            ShopKind::Ref(to) => write!(out, "\"{}\"", self.id(to, r % 1000)),
            ShopKind::Company => write!(out, "\"{}\"", company(self.seed, n)),
            ShopKind::Location => write!(out, "\"l{}\"", company(self.seed, n)),
            ShopKind::Words(count) => write!(out, "\"{}\"", words(r, count)),
            ShopKind::Odd => write!(out, "\"{}\"", ODD[r as usize % ODD.len()]),
            ShopKind::Person => write!(out, "\"{}\"", NAMES[r as usize % NAMES.len()]),
            ShopKind::Email => write!(out, "\"u{}@example.com\"", r % 100_000),
            ShopKind::Integer(below) => write!(out, "{}", r % below),
            ShopKind::Big => write!(out, "{}", 9_007_199_254_740_993 + r % 1_000_000),
            ShopKind::Cents => write!(out, "{}", r as i64 % 1_000_000),
            ShopKind::Decimal => write!(out, "{}.{:02}", r % 1000, (r >> 20) % 100),
            ShopKind::Flag => write!(out, "{}", h & 256 == 0),
            ShopKind::Date => write!(out, "\"{}\"", date(r)),
            ShopKind::Word(all) => write!(out, "\"{}\"", all[r as usize % all.len()]),
            ShopKind::Strings => {
                write!(out, "[\"{}\",\"{}\"]", words(r, 1), NAMES[r as usize % NAMES.len()])
            }
            ShopKind::Object => write!(
                out,
                "{{\"a\": {},\"list\":[1,2.50,null],\"nested\":{{\"note\":\"{}\"}}}}",
                9_007_199_254_740_993 + r % 7,
                ODD[r as usize % 7]
            ),
        };
    }

    /// The schema of a table changes: it has one more column, or one of its columns becomes wider.
    /// Whether it could.
    pub fn change_schema(&mut self, table: usize, widened: bool) -> bool {
        let until = self.rows[table].revisions.iter().map(|(revision, _)| *revision).collect();
        if widened {
            return self.tables[table].widen_column(until);
        }
        const KINDS: [ShopKind; 7] = [
            ShopKind::Words(3),
            ShopKind::Integer(1_000),
            ShopKind::Decimal,
            ShopKind::Flag,
            ShopKind::Date,
            ShopKind::Strings,
            ShopKind::Object,
        ];
        let kind = KINDS[self.rng.usize(..KINDS.len())];
        self.tables[table].add_column(kind, until);
        true
    }

    /// As of when its rows are: the version of its last change.
    pub fn version(&self) -> Version {
        Version { nanos: self.beginning_ns + self.events * STEP_NS, logical: 0 }
    }

    /// Gives the table of that name so many rows in their first revision, for exports of any size.
    pub fn fill(&mut self, table: &str, rows: usize) {
        if let Some(index) = self.tables.iter().position(|t| t.name == table) {
            self.rows[index] = ShopRows { revisions: vec![(0, true); rows], alive: rows };
        }
    }

    /// Changes from now on are as of this time, Unix nanoseconds.
    pub fn begin_at(&mut self, time_ns: u64) {
        self.beginning_ns = time_ns - self.events * STEP_NS;
    }

    /// Changes from now on are as of the present.
    pub fn begin_now(&mut self) {
        self.begin_at(crate::clock::now_ns() as u64);
    }

    /// A moment in which nothing changes.
    pub fn pass_time(&mut self) {
        self.events += 1;
    }

    /// Whose row number `n` is, in any table.
    pub fn company(&self, n: u64) -> String {
        company(self.seed, n)
    }

    /// All companies that the shop has.
    pub fn companies() -> Vec<String> {
        (0..COMPANIES).map(|n| format!("c{n}")).collect()
    }

    /// The rows that a table should have now: number and revision.
    pub fn alive(&self, table: usize) -> impl Iterator<Item = (u64, u32)> {
        self.rows[table]
            .revisions
            .iter()
            .enumerate()
            .filter(|(_, r)| r.1)
            .map(|(n, r)| (n as u64, r.0))
    }
}

fn mix(a: u64, b: u64, c: u64, d: u64) -> u64 {
    let mut bytes = [0; 32];
    for (i, n) in [a, b, c, d].into_iter().enumerate() {
        bytes[i * 8..i * 8 + 8].copy_from_slice(&n.to_le_bytes());
    }
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

fn company(seed: u64, n: u64) -> String {
    format!("c{}", mix(seed, 99, n, 0) % COMPANIES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Decoder, TableSchema};

    #[test]
    fn the_same_seed_brings_the_same_changes_and_they_decode() {
        let (mut a, mut b) =
            (Shop::new(7, ShopOptions::default()), Shop::new(7, ShopOptions::default()));
        let mut decoder = Decoder::default();
        for _ in 0..2000 {
            let (x, y) = (a.next_event(), b.next_event());
            assert_eq!(x.payload, y.payload);
            decoder
                .decode(x.payload.clone().into())
                .unwrap_or_else(|e| panic!("{e}: {}", x.payload));
        }
        for (schema, table) in a.schemas().iter().zip(&a.tables) {
            let schema = TableSchema::parse(schema).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(schema.columns.len(), table.columns.len());
        }
    }

    #[test]
    fn rows_of_an_earlier_schema_keep_their_values() {
        let mut shop = Shop::new(3, ShopOptions::default());
        (0..400).for_each(|_| drop(shop.next_event()));
        let read = |shop: &Shop, n: u64, revision: u32| -> serde_json::Value {
            serde_json::from_str(&shop.row(0, n, revision)).unwrap_or_default()
        };
        let (n, revision) = shop.alive(0).next().unwrap_or_default();
        let (before, version) = (read(&shop, n, revision), shop.tables[0].version.clone());
        assert!(shop.change_schema(0, true) && shop.change_schema(0, false));
        assert_ne!(shop.tables[0].version, version);
        let added = shop.tables[0].columns.last().map(|c| c.name.clone()).unwrap_or_default();
        let same = read(&shop, n, revision);
        assert!(same["postalCode"] == before["postalCode"] && same[&added].is_null());
        let later: Vec<_> = (1..20).map(|more| read(&shop, n, revision + more)).collect();
        assert!(later.iter().any(|row| row["postalCode"].is_f64()), "{later:?}");
        assert!(later.iter().any(|row| !row[&added].is_null()), "{later:?}");
    }

    #[test]
    fn orders_and_customers_are_as_wide_as_benchmarks_say() {
        let mut shop = Shop::new(1, ShopOptions::default());
        for (table, columns, bytes) in
            [("order", 85..95, 3300..4700), ("customer", 20..35, 800..1400)]
        {
            let index = shop.tables.iter().position(|t| t.name == table).unwrap_or(0);
            assert!(
                columns.contains(&shop.tables[index].columns.len()),
                "{table}: {} columns",
                shop.tables[index].columns.len()
            );
            let mean = (0..100)
                .filter_map(|_| shop.insert_into(table))
                .map(|e| e.payload.len())
                .sum::<usize>()
                / 100;
            assert!(bytes.contains(&mean), "{table}: {mean} bytes");
        }
    }
}
