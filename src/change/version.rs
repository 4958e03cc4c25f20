//! The age of a row's version: CockroachDB's MVCC timestamp.

/// Nanoseconds and logical counter, ordered. Never a float: 19 digits do not fit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    /// Unix nanoseconds.
    pub nanos: u64,
    /// The counter that orders what happened in one nanosecond.
    pub logical: u64,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:019}.{:010}", self.nanos, self.logical)
    }
}

impl Version {
    /// Reads `"1720732611708587506.0000000000"`, the dot and counter optional. `None` where the
    /// nanoseconds do not have 19 digits: a tool's small number says nothing about age.
    pub fn parse(text: &str) -> Option<Version> {
        let (nanos, logical) = text.split_once('.').unwrap_or((text, "0"));
        if nanos.len() != 19
            || !nanos.bytes().all(|b| b.is_ascii_digit())
            || !logical.bytes().all(|b| b.is_ascii_digit())
        {
            return None;
        }
        Some(Version { nanos: nanos.parse().ok()?, logical: logical.parse().ok()? })
    }

    /// Whether a change of this version must not follow one of version `applied` to the same row.
    /// At equal versions an upsert beats a delete: a row that moves region arrives as insert and
    /// delete of one key at the same time.
    pub fn is_stale_after(self, is_delete: bool, applied: Version, applied_delete: bool) -> bool {
        self < applied || (self == applied && is_delete && !applied_delete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_by_nanoseconds_then_counter() {
        let v = |s| Version::parse(s);
        assert!(v("1720732611708587506.0000000001") > v("1720732611708587506.0000000000"));
        assert!(v("1720732611708587507.0000000000") > v("1720732611708587506.9999999999"));
        assert_eq!(v("1720732611708587506"), v("1720732611708587506.0000000000"));
        for odd in [
            "",
            "1",
            "172073261170858750",
            "17207326117085875060",
            "abc",
            "1720732611708587506.x",
            "1720732611708587506.0.1",
        ] {
            assert_eq!(v(odd), None, "{odd}");
        }
    }

    #[test]
    fn an_upsert_beats_a_delete_of_the_same_time() {
        let at = Version { nanos: 5, logical: 0 };
        assert!(at.is_stale_after(true, at, false));
        assert!(!at.is_stale_after(false, at, true));
        assert!(!at.is_stale_after(false, at, false));
        assert!(!at.is_stale_after(true, at, true));
    }
}
