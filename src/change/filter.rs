//! Which tables a run is about.

use std::collections::BTreeSet;
use std::fmt;

/// All tables, or those that the user named.
#[derive(Clone, Debug, Default)]
pub struct TableFilter {
    /// The list as the user wrote it.
    text: String,
    only: Option<BTreeSet<String>>,
}

impl TableFilter {
    /// Reads `a,b`; nothing named means all.
    pub fn parse(list: &str) -> TableFilter {
        let names: BTreeSet<String> =
            list.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::to_owned).collect();
        TableFilter { text: list.to_owned(), only: (!names.is_empty()).then_some(names) }
    }

    /// The tables that were named.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.only.iter().flatten()
    }

    /// Whether the run is about this table.
    pub fn takes(&self, table: &str) -> bool {
        self.only.as_ref().is_none_or(|names| names.contains(table))
    }
}

/// The list exactly as it was parsed: an import that was cut off is recognised by it.
impl fmt::Display for TableFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
