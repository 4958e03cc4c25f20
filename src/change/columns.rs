//! The user's rules about columns: which are left out, hashed or added. Events, rows of exports and
//! schemas pass through them before anything else looks at them, so that everything behind sees the
//! resulting table only (docs/decisions/0022-columns-left-out-or-hashed.md).

mod spelling;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use super::decode::is_event_field;
use super::json::{self, Cursor, NotJson};
use super::stamps::{AddedStamps, Stamp, StampTokens};
use super::{Column, Decoder, Event, Malformed, TableSchema};
use spelling::{hashed_text, is_hash};

/// The member of a kept message that lists the columns whose values are hashes already: a hash of a
/// hash would be another value.
const MARK: &str = "_edsHashed";
/// The shortest key: a shorter one can be found by trying.
const KEY_BYTES_MIN: usize = 16;
/// What is hashed to tell one key from another.
const KEY_PROBE: &[u8] = b"eds: which key is it";
/// The hexadecimal digits of a hash.
const HASH_DIGITS: usize = 64;

/// A column of a table, as the source calls them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ColumnName {
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
}

impl ColumnName {
    fn parse(text: &str) -> Option<ColumnName> {
        let (table, column) = text.trim().split_once('.')?;
        let is_whole = !table.is_empty() && !column.is_empty();
        is_whole.then(|| ColumnName { table: table.to_owned(), column: column.to_owned() })
    }
}

impl fmt::Display for ColumnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.table, self.column)
    }
}

/// Members of an event beside its row that have values of columns of the same names.
const ENVELOPE: [&str; 3] = ["companyId", "locationId", "userId"];

/// What becomes of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ColumnFate {
    /// It is left out.
    Excluded,
    /// Its values are hashed.
    Hashed,
}

/// Where a message comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageOrigin {
    /// From the source: nothing of it is hashed, whatever it says.
    Source,
    /// From where EDS kept it, after the rules of that time: what it lists as hashed is.
    Kept,
}

/// Why rules about columns cannot be used; the text says what to change.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadColumnRule {
    /// The name is not that of a column.
    #[error("{flag} wants TABLE.COLUMN, as in customers.email, and not {name:?}")]
    Form {
        /// The option.
        flag: &'static str,
        /// What it has.
        name: String,
    },
    /// Its value is outside the row, too.
    #[error(
        "{0} can neither be left out nor hashed: an event and its subject have the value beside \
         the row as well"
    )]
    Envelope(ColumnName),
    /// Both options name it.
    #[error("{0} is named by --exclude and by --hash: a column that is left out has no hash")]
    Both(ColumnName),
    /// There is no key to hash with.
    #[error(
        "--hash needs a key: name a file that has one with --hash-key-file, or give it by \
         EDS_HASH_KEY, EDS_HASH_KEY_FILE or a credential of that name; `openssl rand -hex 32` \
         makes one"
    )]
    NoKey,
    /// The key can be guessed.
    #[error(
        "the key of --hash has fewer than {KEY_BYTES_MIN} bytes, which can be guessed; `openssl \
         rand -hex 32` makes a good one"
    )]
    ShortKey,
    /// A rule is about a part of the primary key.
    #[error(
        "{name} is part of the primary key of its table (version {version:?}), by which rows are \
         told apart: it can neither be left out nor hashed; take it out of --exclude and --hash"
    )]
    Key {
        /// The column.
        name: ColumnName,
        /// The version of the schema.
        version: String,
    },
    /// It is not the name of a type.
    #[error(
        "--types wants TABLE.COLUMN=TYPE, as in orders.total=numeric(12,2): a type is words and, \
         in brackets, numbers; not {0:?}"
    )]
    Type(String),
    /// No known table has such a column.
    #[error(
        "no known schema has the column {0} that --exclude, --hash or --types names: a wrong name \
         would let the column through; correct it, or take it out"
    )]
    Unknown(ColumnName),
}

/// What becomes of the columns of one table; those that are not named stay.
#[derive(Clone, Default)]
struct TableRules {
    fates: BTreeMap<String, ColumnFate>,
    /// The types that new columns get.
    types: BTreeMap<String, String>,
}

/// All rules about columns.
#[derive(Clone, Default)]
pub struct ColumnRules {
    tables: BTreeMap<String, TableRules>,
    /// Begun with the key, where something is to be hashed.
    hasher: Option<Hmac<Sha256>>,
    /// Columns that are added to every table.
    stamps: AddedStamps,
}

/// Without the key.
impl fmt::Debug for ColumnRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names().map(|(name, fate)| (name.to_string(), fate))).finish()
    }
}

impl ColumnRules {
    /// Reads lists of `table.column`. The key is needed where something is to be hashed.
    pub fn new(
        exclude: &[String],
        hash: &[String],
        key: Option<&SecretString>,
    ) -> Result<ColumnRules, BadColumnRule> {
        let mut rules = ColumnRules::default();
        let excluded = exclude.iter().map(|name| ("--exclude", name, ColumnFate::Excluded));
        let hashed = hash.iter().map(|name| ("--hash", name, ColumnFate::Hashed));
        for (flag, text, fate) in excluded.chain(hashed) {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let Some(name) = ColumnName::parse(text) else {
                return Err(BadColumnRule::Form { flag, name: text.to_owned() });
            };
            if ENVELOPE.contains(&&*name.column) {
                return Err(BadColumnRule::Envelope(name));
            }
            let table = rules.tables.entry(name.table.clone()).or_default();
            if table.fates.insert(name.column.clone(), fate).is_some_and(|other| other != fate) {
                return Err(BadColumnRule::Both(name));
            }
        }
        if rules.names().any(|(_, fate)| fate == ColumnFate::Hashed) {
            let key = key.ok_or(BadColumnRule::NoKey)?.expose_secret().as_bytes();
            if key.len() < KEY_BYTES_MIN {
                return Err(BadColumnRule::ShortKey);
            }
            rules.hasher = Hmac::new_from_slice(key).ok();
        }
        Ok(rules)
    }

    /// The same rules, by which new columns have these types; each is `table.column=type`.
    pub fn with_types(mut self, types: &[String]) -> Result<ColumnRules, BadColumnRule> {
        for text in types.iter().flat_map(|list| split_list(list)) {
            let bad = || BadColumnRule::Type(text.to_owned());
            let (name, declared) = text.split_once('=').ok_or_else(bad)?;
            let name = ColumnName::parse(name).ok_or_else(bad)?;
            if !is_type(declared.trim()) {
                return Err(bad());
            }
            let table = self.tables.entry(name.table).or_default();
            table.types.insert(name.column, declared.trim().to_owned());
        }
        Ok(self)
    }

    /// The same rules, which also add columns.
    pub fn adding(self, stamps: AddedStamps) -> ColumnRules {
        ColumnRules { stamps, ..self }
    }

    /// Whether columns are left out or hashed.
    pub fn hides(&self) -> bool {
        self.tables.values().any(|rules| !rules.fates.is_empty())
    }

    /// The rules for who keeps changes and not rows: a deletion is a change of its own there, and
    /// nothing is added.
    pub fn of_changes(&self) -> ColumnRules {
        self.clone().adding(AddedStamps::default())
    }

    /// Which columns are added.
    pub fn stamps(&self) -> AddedStamps {
        self.stamps
    }

    fn names(&self) -> impl Iterator<Item = (ColumnName, ColumnFate)> {
        self.tables.iter().flat_map(|(table, rules)| {
            let name =
                |column: &String| ColumnName { table: table.clone(), column: column.clone() };
            rules.fates.iter().map(move |(column, fate)| (name(column), *fate))
        })
    }

    /// The columns that rules are about.
    pub fn columns(&self) -> BTreeSet<ColumnName> {
        let typed = self.tables.iter().flat_map(|(table, rules)| {
            let name =
                |column: &String| ColumnName { table: table.clone(), column: column.clone() };
            rules.types.keys().map(name)
        });
        self.names().map(|(name, _)| name).chain(typed).collect()
    }

    /// The rules as text: two that are equal leave the same of every row, and make the same
    /// columns. The key is in it as a hash by it. `None` where there are no rules.
    pub fn text(&self) -> Option<String> {
        let word = |(name, fate): (ColumnName, ColumnFate)| match fate {
            ColumnFate::Excluded => format!("-{name}"),
            ColumnFate::Hashed => format!("#{name}"),
        };
        let mut words: Vec<String> = self.names().map(word).collect();
        for (table, rules) in &self.tables {
            let types = rules.types.iter();
            words.extend(types.map(|(column, declared)| format!("{table}.{column}={declared}")));
        }
        let stamps = Stamp::ALL.into_iter().filter(|stamp| self.stamps.has(*stamp));
        words.extend(stamps.map(|stamp| format!("+{}", stamp.name())));
        words.extend(self.hasher.as_ref().map(|hasher| {
            let hash = hasher.clone().chain_update(KEY_PROBE).finalize().into_bytes();
            format!("key {}", HEXLOWER.encode(&hash))
        }));
        (!words.is_empty()).then(|| words.join(","))
    }

    /// The schema of what is left of its table, with what is added; `None` where it stays as it is.
    /// Hashes are text.
    pub fn schema(&self, schema: &TableSchema) -> Result<Option<TableSchema>, BadColumnRule> {
        let no_rules = TableRules::default();
        let rules = self.tables.get(&*schema.table).unwrap_or(&no_rules);
        let is_stamp = |column: &Column| Stamp::named(&column.name).is_some();
        let is_same = rules.fates.is_empty() && rules.types.is_empty() && !self.stamps.any();
        if is_same && !schema.columns.iter().any(is_stamp) {
            return Ok(None);
        }
        if let Some(key) = schema.key_columns().iter().find(|c| rules.fate(&c.name).is_some()) {
            let (table, column) = (schema.table.to_string(), key.name.to_string());
            let name = ColumnName { table, column };
            return Err(BadColumnRule::Key { name, version: schema.version.to_string() });
        }
        // Names of EDS are its own, also where the schema was made by other rules.
        let own = schema.columns.iter().enumerate().filter(|(_, column)| !is_stamp(column));
        let columns = own.filter_map(|(i, column)| {
            let left = match rules.fate(&column.name) {
                None => column.clone(),
                Some(ColumnFate::Hashed) => column.as_text(),
                Some(ColumnFate::Excluded) => return None,
            };
            // Of a row that is deleted the source may tell no more than its key.
            let nullable = left.nullable || (self.stamps.deleted_at && i >= schema.keys);
            let declared = rules.types.get(&*column.name).map(|declared| declared.as_str().into());
            Some(Column { nullable, declared, ..left })
        });
        let added = Stamp::ALL.into_iter().filter(|stamp| self.stamps.has(*stamp));
        Ok(Some(schema.with_columns(columns.chain(added.map(Stamp::column)).collect())))
    }

    /// Reads a message and applies the rules to it; what is kept of it is kept so.
    pub fn decode(
        &self,
        decoder: &mut Decoder,
        payload: Bytes,
        origin: MessageOrigin,
    ) -> Result<Event, Malformed> {
        let mut event = decoder.decode(payload)?;
        let rules = self.tables.get(&*event.table());
        if let Some(rules) = rules.filter(|rules| !rules.fates.is_empty()) {
            event = decoder.decode(self.message(rules, event.payload(), origin)?.into())?;
        }
        if self.stamps.any() {
            event.stamped(StampTokens::of_event(&event));
        }
        Ok(event)
    }

    /// A message that cannot be read, as it may be kept: nobody knows which table it is about, and
    /// so what of it has to be left out.
    pub fn unreadable(&self, payload: Bytes) -> Bytes {
        match self.hides() {
            false => payload,
            true => format!(
                "{{\"withheld\":\"a message that cannot be read is not kept where columns are left \
                 out or hashed\",\"bytes\":{}}}",
                payload.len()
            )
            .into(),
        }
    }

    /// A row of an export: a line that is an object. One that is none stays, and is no row.
    pub fn row(&self, table: &str, line: Bytes) -> Bytes {
        let Some(rules) = self.tables.get(table) else { return line };
        let Ok(text) = std::str::from_utf8(&line) else { return line };
        let (mut out, mut cursor) = (String::with_capacity(text.len()), Cursor::new(text));
        let made = self.object(rules, &mut cursor, text, &mut out, &BTreeSet::new());
        match made.and_then(|()| cursor.end()) {
            Ok(()) => out.into(),
            Err(_) => line,
        }
    }

    /// The message with what is left of its row.
    fn message(
        &self,
        rules: &TableRules,
        payload: &str,
        origin: MessageOrigin,
    ) -> Result<String, NotJson> {
        let mut marked = match origin {
            MessageOrigin::Source => BTreeSet::new(),
            MessageOrigin::Kept => marked(payload)?,
        };
        let mut out = String::with_capacity(payload.len());
        Cursor::new(payload).object(|cursor, key| {
            let key = key.of(payload).unwrap_or_default();
            let name = json::text(key);
            let is_object = cursor.peek() == Some(b'{');
            match &*name {
                "before" | "after" if is_object => {
                    begin_member(&mut out, key);
                    self.object(rules, cursor, payload, &mut out, &marked)?;
                }
                "diff" => {
                    let names = rules.names_left(cursor.value()?.of(payload).unwrap_or_default());
                    begin_member(&mut out, key);
                    out.push_str(&names);
                }
                // What EDS does not know may hold values, too.
                name if is_event_field(name) => {
                    let value = cursor.value()?;
                    begin_member(&mut out, key);
                    out.push_str(value.of(payload).unwrap_or_default());
                }
                _ => drop(cursor.value()?),
            }
            Ok::<(), NotJson>(())
        })?;
        let hashed = rules.fates.iter().filter(|(_, fate)| **fate == ColumnFate::Hashed);
        marked.extend(hashed.map(|(column, _)| column.clone()));
        if !marked.is_empty() {
            begin_member(&mut out, &format!("\"{MARK}\""));
            out.push_str(&serde_json::Value::from_iter(marked).to_string());
        }
        out.push_str(if out.is_empty() { "{}" } else { "}" });
        Ok(out)
    }

    /// Passes the object at which the cursor stands, and writes what is left of it.
    fn object(
        &self,
        rules: &TableRules,
        cursor: &mut Cursor<'_>,
        text: &str,
        out: &mut String,
        marked: &BTreeSet<String>,
    ) -> Result<(), NotJson> {
        let mut row = String::new();
        cursor.object(|cursor, key| {
            let key = key.of(text).unwrap_or_default();
            let value = cursor.value()?;
            let name = json::text(key);
            let fate = rules.fate(&name);
            if fate != Some(ColumnFate::Excluded) {
                begin_member(&mut row, key);
                let token = value.of(text).unwrap_or_default();
                let is_done = token == "null" || (marked.contains(&*name) && is_hash(token));
                match fate {
                    Some(_) if !is_done => self.hash(token, &mut row),
                    _ => row.push_str(token),
                }
            }
            Ok::<(), NotJson>(())
        })?;
        row.push_str(if row.is_empty() { "{}" } else { "}" });
        out.push_str(&row);
        Ok(())
    }

    /// Writes the hash of a value as a token.
    fn hash(&self, token: &str, out: &mut String) {
        let Some(hasher) = &self.hasher else { return out.push_str("null") };
        let hash = hasher.clone().chain_update(hashed_text(token)).finalize().into_bytes();
        out.push('"');
        HEXLOWER.encode_append(&hash, out);
        out.push('"');
    }
}

impl TableRules {
    fn fate(&self, column: &str) -> Option<ColumnFate> {
        self.fates.get(column).copied()
    }

    /// The list `diff` without the names of columns that are left out; what is no list of names is
    /// left out whole.
    fn names_left(&self, list: &str) -> String {
        let Ok(mut names) = serde_json::from_str::<Vec<String>>(list) else { return "null".into() };
        names.retain(|name| self.fate(name) != Some(ColumnFate::Excluded));
        serde_json::Value::from(names).to_string()
    }
}

/// The parts of a list; a comma within brackets is of a part.
fn split_list(list: &str) -> Vec<&str> {
    let mut depth = 0;
    let is_between = |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth <= 0
    };
    list.split(is_between).map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// Whether it is words and, at the end, numbers in brackets: nothing that ends a statement.
fn is_type(text: &str) -> bool {
    let (words, numbers) = match text.strip_suffix(')').map(|open| open.split_once('(')) {
        None => (text, None),
        Some(Some((words, numbers))) => (words, Some(numbers)),
        Some(None) => return false,
    };
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_');
    words.starts_with(|c: char| c.is_ascii_alphabetic())
        && words.chars().all(is_word)
        && numbers.is_none_or(|numbers| {
            let is_number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
            numbers.split(',').all(|n| is_number(n.trim()))
        })
}

/// Writes what stands before the value of the object's next member.
fn begin_member(out: &mut String, key: &str) {
    out.push(if out.is_empty() { '{' } else { ',' });
    out.push_str(key);
    out.push(':');
}

/// The columns that a kept message lists as hashed.
fn marked(payload: &str) -> Result<BTreeSet<String>, NotJson> {
    let mut list = None;
    Cursor::new(payload).object(|cursor, key| {
        let value = cursor.value()?;
        if key.of(payload).is_some_and(|key| json::text(key) == MARK) {
            list = value.of(payload);
        }
        Ok::<(), NotJson>(())
    })?;
    Ok(list.and_then(|list| serde_json::from_str(list).ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests;
