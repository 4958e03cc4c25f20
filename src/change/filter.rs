//! Which tables a run is about.

use std::collections::BTreeSet;

/// All tables, or those that the user named.
#[derive(Clone, Debug, Default)]
pub struct TableFilter {
    only: Option<BTreeSet<String>>,
}

impl TableFilter {
    /// Reads `a,b`; nothing named means all.
    pub fn parse(list: &str) -> TableFilter {
        let names: BTreeSet<String> =
            list.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::to_owned).collect();
        TableFilter { only: (!names.is_empty()).then_some(names) }
    }

    /// The tables that were named.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.only.iter().flatten()
    }

    /// Whether the changes of the table pass.
    pub fn takes(&self, table: &str) -> bool {
        self.only.as_ref().is_none_or(|names| names.contains(table))
    }
}
