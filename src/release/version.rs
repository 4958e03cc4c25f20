//! Versions of releases: which is older.

use std::cmp::Ordering;

/// Whether `version` is older than `than`, by the rules of semantic versions; false where one of
/// them is none.
pub fn is_older(version: &str, than: &str) -> bool {
    match (parts(version), parts(than)) {
        (Some(version), Some(than)) => compare(&version, &than) == Ordering::Less,
        _ => false,
    }
}

/// The numbers, and the marks of a version before the release.
type VersionParts<'a> = (Vec<u64>, Vec<&'a str>);

fn parts(version: &str) -> Option<VersionParts<'_>> {
    let version = version.trim_start_matches('v').split('+').next()?;
    let (numbers, marks) = version.split_once('-').unwrap_or((version, ""));
    let numbers = numbers.split('.').map(|n| n.parse().ok()).collect::<Option<Vec<u64>>>()?;
    Some((numbers, marks.split('.').filter(|mark| !mark.is_empty()).collect()))
}

fn compare((left, before): &VersionParts<'_>, (right, than): &VersionParts<'_>) -> Ordering {
    let length = left.len().max(right.len());
    let number = |of: &[u64], at: usize| of.get(at).copied().unwrap_or_default();
    let numbers = (0..length).map(|at| number(left, at).cmp(&number(right, at)));
    numbers.fold(Ordering::Equal, Ordering::then).then_with(|| {
        match (before.is_empty(), than.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => marks(before, than),
        }
    })
}

fn marks(left: &[&str], right: &[&str]) -> Ordering {
    let one = |(left, right): (&&str, &&str)| match (left.parse::<u64>(), right.parse::<u64>()) {
        (Ok(left), Ok(right)) => left.cmp(&right),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => left.cmp(right),
    };
    let all = left.iter().zip(right).map(one);
    all.fold(Ordering::Equal, Ordering::then).then(left.len().cmp(&right.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_their_order() {
        let ordered = [
            "0.9",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-rc.2",
            "1.0.0-rc.11",
            "v1.0.0",
            "1.0.1",
            "1.2.0",
            "1.10.0",
        ];
        for (at, older) in ordered.iter().enumerate() {
            for (than, newer) in ordered.iter().enumerate() {
                assert_eq!(is_older(older, newer), at < than, "{older} {newer}");
            }
        }
        assert!(!is_older("1.0.0+a", "1.0.0+b") && !is_older("1", "1.0.0"));
        assert!(!is_older("main", "1.0.0") && !is_older("1.0.0", "main"));
    }
}
