//! In which order the rows of tables are replaced that foreign keys connect: what others refer to
//! comes first.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{ImportPlan, loader};
use crate::change::TableSchema;
use crate::destination::import::ForeignKey;
use crate::destination::{Destination, Failure};

/// What foreign keys mean for an import, told before hours of loading.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct References {
    /// The tables, by index: what others refer to comes before them.
    pub order: Vec<usize>,
    /// Tables that refer to each other in a circle, with the keys that do; none has a first one.
    pub circle: Vec<ForeignKey>,
    /// Keys whose rows must be there already, as their table is not imported.
    pub outside: Vec<ForeignKey>,
}

impl References {
    /// What the keys mean for these tables.
    pub fn of(tables: &[&str], keys: &[ForeignKey]) -> References {
        let (inside, outside): (Vec<&ForeignKey>, Vec<&ForeignKey>) =
            keys.iter().partition(|key| tables.contains(&key.refers_to.as_str()));
        let mut open: Vec<&ForeignKey> =
            inside.into_iter().filter(|key| !key.is_deferrable).collect();
        let mut left: Vec<usize> = (0..tables.len()).collect();
        let mut order = Vec::new();
        loop {
            let waits = |i: &usize| open.iter().any(|key| key.table == tables[*i]);
            let (waiting, ready): (Vec<usize>, Vec<usize>) = left.into_iter().partition(waits);
            open.retain(|key| !ready.iter().any(|i| key.refers_to == tables[*i]));
            left = waiting;
            if ready.is_empty() {
                break;
            }
            order.extend(ready);
        }
        order.extend(left);
        References {
            order,
            circle: circle(open).into_iter().cloned().collect(),
            outside: outside.into_iter().cloned().collect(),
        }
    }

    /// The failure of an import whose tables have no order.
    pub fn refuse_circle(&self) -> Result<(), Failure> {
        if self.circle.is_empty() {
            return Ok(());
        }
        let keys: Vec<String> = self.circle.iter().map(described).collect();
        Err(Failure::misconfigured(format!(
            "rows of these tables cannot be replaced one table after the other, because foreign \
             keys refer to each other in a circle: {}. Drop one of them, or make it DEFERRABLE \
             where the database has that; --only leaves tables out",
            keys.join(", ")
        )))
    }
}

/// A key as users read it.
pub fn described(key: &ForeignKey) -> String {
    format!("{:?} of table {:?} to {:?}", key.name, key.table, key.refers_to)
}

/// Without the keys of tables that only wait for a circle.
fn circle(mut open: Vec<&ForeignKey>) -> Vec<&ForeignKey> {
    loop {
        let referred: BTreeSet<&str> = open.iter().map(|key| &*key.refers_to).collect();
        let before = open.len();
        open.retain(|key| referred.contains(&*key.table));
        if open.len() == before {
            return open;
        }
    }
}

/// What foreign keys mean for the tables of `plan`.
pub async fn references(
    destination: &mut dyn Destination,
    plan: &ImportPlan,
) -> Result<References, Failure> {
    let schemas: Vec<Arc<TableSchema>> = plan.tables.iter().map(|t| t.schema.clone()).collect();
    let keys = loader(destination)?.foreign_keys(&schemas).await?;
    let names: Vec<&str> = schemas.iter().map(|schema| &*schema.table).collect();
    Ok(References::of(&names, &keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(of: &str, to: &str, is_deferrable: bool) -> ForeignKey {
        let name = format!("{of}_{to}");
        ForeignKey { name, table: of.to_owned(), refers_to: to.to_owned(), is_deferrable }
    }

    #[test]
    fn what_others_refer_to_comes_first() {
        let keys = [key("a", "b", false), key("b", "c", false), key("b", "elsewhere", false)];
        let found = References::of(&["a", "b", "c", "d"], &keys);
        assert_eq!(found.order, [2, 3, 1, 0]);
        assert_eq!(found.outside, [keys[2].clone()]);
        assert_eq!(found.refuse_circle(), Ok(()));
    }

    #[test]
    fn a_circle_is_named_without_what_waits_for_it() {
        let circle = [key("a", "b", false), key("b", "a", false)];
        let keys = [&circle[..], &[key("x", "a", false), key("a", "y", false)]].concat();
        let found = References::of(&["x", "a", "b", "y"], &keys);
        assert_eq!(found.circle, circle);
        let said = found.refuse_circle().err().map(|f| f.text).unwrap_or_default();
        assert!(said.contains("\"a_b\" of table \"a\" to \"b\""), "{said}");
        let own = References::of(&["t"], &[key("t", "t", false)]);
        assert_eq!(own.circle.len(), 1);
        let deferred = References::of(&["a", "b"], &[key("a", "b", true), key("b", "a", false)]);
        assert_eq!((deferred.order, deferred.circle), (vec![0, 1], Vec::new()));
    }
}
