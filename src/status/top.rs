//! The status in a terminal, as lines of text. Pure: what it is written on is told.

use super::Status;
use super::verdict::{Severity, age};
use crate::pipeline::progress::{HeldCounts, TableCounts};

/// What there is to write on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sheet {
    /// Characters in a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
    /// It shows colours.
    pub has_colour: bool,
}

/// Problems that are shown.
const PROBLEMS_MAX: usize = 5;
/// The narrowest column of names.
const NAME_MIN: usize = 12;
/// The widest one.
const NAME_MAX: usize = 40;

/// A column of the tables' list.
struct ListColumn {
    title: &'static str,
    width: usize,
    text: fn(&TableRow<'_>) -> String,
}

/// A table, with what its columns need.
struct TableRow<'s> {
    name: &'s str,
    counts: &'s TableCounts,
    held: Option<&'s HeldCounts>,
    now: u64,
}

/// The columns after the name, the most important first: as many are shown as there is room for.
const LIST: [ListColumn; 7] = [
    ListColumn { title: "upserts", width: 11, text: |row| row.counts.upserts.to_string() },
    ListColumn { title: "deletes", width: 9, text: |row| row.counts.deletes.to_string() },
    ListColumn { title: "held", width: 8, text: |row| some(row.held.map_or(0, |h| h.changes)) },
    ListColumn { title: "dead", width: 6, text: |row| some(row.counts.dead_letters) },
    ListColumn {
        title: "last change",
        width: 12,
        text: |row| row.ago(row.counts.last_change_unix),
    },
    ListColumn {
        title: "passed over",
        width: 12,
        text: |row| some(row.counts.filtered + row.counts.stale + row.counts.imported),
    },
    ListColumn { title: "imported", width: 12, text: |row| row.ago(row.counts.imported_unix) },
];

impl TableRow<'_> {
    fn ago(&self, unix: u64) -> String {
        match unix {
            0 => String::new(),
            unix => age(self.now.saturating_sub(unix)),
        }
    }

    /// Those that need somebody come first, then the busiest.
    fn order(&self) -> (bool, bool, std::cmp::Reverse<u64>) {
        let rows = self.counts.upserts + self.counts.deletes;
        (self.held.is_none(), self.counts.dead_letters == 0, std::cmp::Reverse(rows))
    }
}

/// A count that is mostly 0.
fn some(count: u64) -> String {
    if count == 0 { String::new() } else { count.to_string() }
}

/// The status on a sheet; no line is longer, and there are no more than it has.
pub fn lines(status: &Status, sheet: &Sheet) -> Vec<String> {
    let mut all = head(status, sheet);
    let room = sheet.rows.saturating_sub(all.len() + 2);
    all.extend(list(status, sheet, room));
    all.truncate(sheet.rows.saturating_sub(1).max(1));
    all
}

fn head(status: &Status, sheet: &Sheet) -> Vec<String> {
    let now = &status.snapshot;
    let worst = status.problems.first().map(|problem| problem.severity);
    let mut all = vec![
        coloured(&cut(&status.headline, sheet.columns), worst, sheet),
        cut(
            &format!(
                "{} into {}",
                named(&now.consumer, "no consumer yet"),
                named(&now.destination, "no destination yet")
            ),
            sheet.columns,
        ),
        String::new(),
    ];
    for problem in status.problems.iter().take(PROBLEMS_MAX) {
        let word = match problem.severity {
            Severity::Error => "ERROR",
            Severity::Warning => "WARN ",
            Severity::Note => "NOTE ",
        };
        let since = match problem.since_unix {
            0 => String::new(),
            since => format!(" (for {})", age(status.at_unix.saturating_sub(since))),
        };
        let text = format!("{word} {}{since}", problem.title);
        all.push(coloured(&cut(&text, sheet.columns), Some(problem.severity), sheet));
        if !problem.text.is_empty() {
            all.push(cut(&format!("      {}", problem.text), sheet.columns));
        }
    }
    if !status.problems.is_empty() {
        all.push(String::new());
    }
    let facts = [
        format!("{:.1} changes/s", status.events_per_second),
        format!("{:.1} s behind", now.lag_seconds),
        format!("{} waiting", now.lag_events),
        format!("{} delivered", now.done),
        format!("{} dead letters", now.dead_letters_waiting),
        format!("EDS {} up {}", status.version, age(status.uptime_seconds)),
    ];
    all.extend(filled(&facts, sheet.columns));
    all.push(String::new());
    all
}

/// The tables, in at most `room` lines below their heading.
fn list(status: &Status, sheet: &Sheet, room: usize) -> Vec<String> {
    let now = &status.snapshot;
    let none = TableCounts::default();
    let mut rows: Vec<TableRow<'_>> = now
        .tables
        .keys()
        .chain(now.held.keys().filter(|name| !now.tables.contains_key(*name)))
        .map(|name| TableRow {
            name,
            counts: now.tables.get(name).unwrap_or(&none),
            held: now.held.get(name),
            now: status.at_unix,
        })
        .collect();
    if rows.is_empty() {
        return vec![cut("No change has come yet.", sheet.columns)];
    }
    rows.sort_by_key(TableRow::order);
    let longest = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    // Names give way to the first two counts.
    let room_of_name = sheet.columns.saturating_sub(LIST[0].width + LIST[1].width).max(NAME_MIN);
    let name = longest.clamp(NAME_MIN, NAME_MAX).min(room_of_name).min(sheet.columns);
    let mut width = name;
    let shown = LIST.iter().take_while(|column| {
        width += column.width;
        width <= sheet.columns
    });
    let shown: Vec<&ListColumn> = shown.collect();
    let title = |column: &&ListColumn| format!("{:>1$}", column.title, column.width);
    let titles: String = shown.iter().map(title).collect();
    let mut all = vec![format!("{:<name$}{titles}", cut("table", name))];
    let fits = if rows.len() > room { room.saturating_sub(1) } else { room };
    for row in rows.iter().take(fits) {
        let cells: String = shown
            .iter()
            .map(|column| format!("{:>1$}", (column.text)(row), column.width))
            .collect();
        let line = format!("{:<name$}{cells}", cut(row.name, name)).trim_end().to_owned();
        let severity =
            (row.held.is_some() || row.counts.dead_letters > 0).then_some(Severity::Warning);
        all.push(match severity {
            None => line,
            some => coloured(&line, some, sheet),
        });
    }
    if rows.len() > fits {
        all.push(cut(&format!("… and {} more tables", rows.len() - fits), sheet.columns));
    }
    all
}

fn named<'t>(text: &'t str, none: &'t str) -> &'t str {
    if text.is_empty() { none } else { text }
}

/// The facts side by side, in as many lines as they need.
fn filled(facts: &[String], columns: usize) -> Vec<String> {
    const GAP: &str = "   ";
    let mut all: Vec<String> = Vec::new();
    for fact in facts {
        match all.last_mut() {
            Some(line) if line.chars().count() + GAP.len() + fact.chars().count() <= columns => {
                *line += GAP;
                *line += fact;
            }
            _ => all.push(cut(fact, columns)),
        }
    }
    all
}

/// As much of it as fits, on one line, without anything that a terminal would obey.
fn cut(text: &str, columns: usize) -> String {
    let mut clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let fitting: String = clean.by_ref().take(columns).collect();
    match clean.next() {
        None => fitting,
        Some(_) => fitting.chars().take(columns.saturating_sub(1)).chain(['…']).collect(),
    }
}

fn coloured(text: &str, severity: Option<Severity>, sheet: &Sheet) -> String {
    let colour = match severity {
        _ if !sheet.has_colour => return text.to_owned(),
        None => "32",
        Some(Severity::Error) => "31",
        Some(Severity::Warning) => "33",
        Some(Severity::Note) => "36",
    };
    format!("\x1b[{colour}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::progress::{Phase, Snapshot, StatusNotice};
    use crate::status::moment::ServerFacts;
    use crate::status::verdict::{headline, problems};

    fn status(is_broken: bool) -> Status {
        let mut snapshot = Snapshot {
            consumer: "eds-one".into(),
            destination: "postgres://ed*:****@localhost/sh**".into(),
            done: 4_711,
            lag_events: 3,
            lag_seconds: 12.34,
            ..Snapshot::default().in_state(Phase::Streaming)
        };
        for (name, upserts) in [("customer", 90), ("order_item_of_the_longest_name", 1_234_567)] {
            let counts = snapshot.counts_of(name).1;
            (counts.upserts, counts.last_change_unix) = (upserts, 999_000);
        }
        if is_broken {
            snapshot.state = Phase::Waiting("PostgreSQL: connection\x1b[2J refused".into());
            snapshot.last_error =
                Some(StatusNotice { at_unix: 999_880, text: "x".into(), times: 1 });
            snapshot.counts_of("customer").1.dead_letters = 2;
            let held = HeldCounts { changes: 17, since_unix: 1, ..HeldCounts::default() };
            snapshot.held.insert("invoice".into(), held);
        }
        let at_unix = 1_000_000;
        Status {
            version: "1.2.3".into(),
            at_unix,
            uptime_seconds: 3_700,
            events_per_second: 1.5,
            headline: headline(&snapshot),
            problems: problems(&snapshot, &ServerFacts::default(), at_unix),
            actions: Vec::new(),
            server: ServerFacts::default(),
            snapshot,
        }
    }

    fn shown(is_broken: bool, columns: usize, rows: usize) -> String {
        let sheet = Sheet { columns, rows, has_colour: false };
        let all = lines(&status(is_broken), &sheet);
        assert!(all.len() <= rows && all.iter().all(|line| line.chars().count() <= columns));
        all.iter().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    #[test]
    fn the_sheets_are_as_they_were() {
        let sheets = [
            ("well, wide", shown(false, 120, 40)),
            ("broken, of 80", shown(true, 80, 24)),
            ("broken, narrow", shown(true, 34, 24)),
            ("broken, low", shown(true, 60, 14)),
        ];
        let text: String =
            sheets.iter().map(|(name, sheet)| format!("=== {name}\n{sheet}")).collect();
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/top.txt");
        if std::env::var_os("EDS_GOLDEN").is_some_and(|word| word == "write") {
            std::fs::write(file, &text).unwrap_or_else(|e| panic!("{e}"));
        }
        let golden = std::fs::read_to_string(file).unwrap_or_default();
        assert_eq!(text, golden);
    }

    #[test]
    fn colours_are_there_where_they_are_wanted_and_nothing_else_that_a_terminal_obeys() {
        let sheet = Sheet { columns: 80, rows: 24, has_colour: true };
        let all = lines(&status(true), &sheet).join("\n");
        assert!(all.contains("\x1b[31mChanges are not delivered\x1b[0m"), "{all:?}");
        assert!(!all.contains("\x1b[2J"));
        assert!(!shown(true, 80, 24).contains('\x1b'));
        for columns in 1..130 {
            shown(true, columns, 9);
        }
    }

    #[test]
    fn a_thousand_tables_fit_on_a_screen() {
        let mut many = status(true);
        for i in 0..1_000 {
            many.snapshot.counts_of(&format!("t{i}")).1.upserts = i;
        }
        let all = lines(&many, &Sheet { columns: 80, rows: 24, has_colour: false });
        assert_eq!(all.len(), 23);
        assert!(all[22].starts_with("… and "), "{}", all[22]);
        assert!(all.iter().any(|line| line.starts_with("invoice")), "held tables come first");
    }
}
