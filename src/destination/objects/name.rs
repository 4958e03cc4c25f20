//! Names of objects. They contain data, which must not be able to escape the folder.

use crate::change::Change;
use crate::validator::Validator;

/// The longest segment of a path; file systems take 255 bytes.
const SEGMENT_BYTES_MAX: usize = 180;

/// Where an object is stored under the folder. That of a change is
/// `<table>/<unix-seconds>-<primary key>.json`, or where the user's rules say; that of many changes
/// is named by `parts`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// The folders, separated by slashes; may be empty.
    pub folder: String,
    stem: String,
    /// With its dot.
    extension: String,
}

impl Name {
    /// The name of a change's object; the user's rules may choose it.
    pub fn of(change: &Change, rules: Option<&Validator>) -> Name {
        let chosen = rules.and_then(|rules| {
            rules.path(&change.event.table(), change.event.payload(), path_segment)
        });
        chosen.as_deref().and_then(Name::from_rule).unwrap_or_else(|| Name::usual(change))
    }

    /// A name in `folder`; `extension` has its dot.
    pub fn new(folder: String, stem: String, extension: &str) -> Name {
        Name { folder, stem, extension: extension.into() }
    }

    fn usual(change: &Change) -> Name {
        let seconds = change.event.timestamp_ms().div_euclid(1000);
        Name {
            folder: path_segment(&change.event.table()),
            stem: format!("{seconds}-{}", path_segment(&String::from_utf8_lossy(&change.key))),
            extension: ".json".into(),
        }
    }

    /// The name that a rule's path is. The values in it are parts already; what a person wrote
    /// between them must not climb either.
    fn from_rule(path: &str) -> Option<Name> {
        let safe = |segment: &str| {
            if segment.starts_with('.') {
                segment.replacen('.', "%2E", 1)
            } else {
                segment.to_owned()
            }
        };
        let mut segments: Vec<String> =
            path.split(['/', '\\']).filter(|segment| !segment.is_empty()).map(safe).collect();
        let file = segments.pop()?;
        let (stem, extension) = match file.rsplit_once('.') {
            Some((stem, extension)) => (stem.to_owned(), format!(".{extension}")),
            None => (file, String::new()),
        };
        Some(Name { folder: segments.join("/"), stem, extension })
    }

    /// The name within its folder.
    pub fn file(&self) -> String {
        format!("{}{}", self.stem, self.extension)
    }

    /// The name of an older event that had this one: its own version is added.
    pub fn of_older(&self, version: &str) -> String {
        format!("{}-{}{}", self.stem, path_segment(version), self.extension)
    }

    /// The name for a file of many changes where a file with other changes has the usual one.
    pub fn of_content(&self, content: &[u8]) -> String {
        self.of_older(&format!("{:016x}", xxhash_rust::xxh3::xxh3_64(content)))
    }

    /// The name of an older event where an event of another content has the one
    /// [of its version](Name::of_older) already.
    pub fn of_another_older(&self, version: &str, content: &[u8]) -> String {
        self.of_older(&format!("{version}-{:016x}", xxhash_rust::xxh3::xxh3_64(content)))
    }
}

/// Text as one segment of a path: what could separate, climb or hide is percent-encoded; what is
/// too long ends in a hash.
pub fn path_segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, c) in text.chars().enumerate() {
        match c {
            '/' | '\\' | '%' | ':' => out.push_str(&format!("%{:02X}", c as u32)),
            '.' if i == 0 => out.push_str("%2E"),
            c if c.is_control() => {
                c.to_string().bytes().for_each(|b| out.push_str(&format!("%{b:02X}")));
            }
            c => out.push(c),
        }
    }
    if out.is_empty() {
        return "NONE".into();
    }
    if out.len() > SEGMENT_BYTES_MAX {
        let end = (0..=SEGMENT_BYTES_MAX).rev().find(|i| out.is_char_boundary(*i)).unwrap_or(0);
        let hash = xxhash_rust::xxh3::xxh3_128(text.as_bytes());
        out.truncate(end);
        out += &format!("-{hash:032x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_names_stay_as_they_are() {
        assert_eq!(path_segment("6287a4154d1a72cc5ce091bb"), "6287a4154d1a72cc5ce091bb");
        assert_eq!(path_segment("order_item-1.é"), "order_item-1.é");
        assert_eq!(path_segment("../../etc/passwd"), "%2E.%2F..%2Fetc%2Fpasswd");
    }

    #[test]
    fn a_chosen_path_stays_below_its_folder() {
        let chosen = |path: &str| {
            Name::from_rule(path).map(|name| format!("{}|{}", name.folder, name.file()))
        };
        assert_eq!(
            chosen("order/received/order_1.2_e1.json").as_deref(),
            Some("order/received|order_1.2_e1.json")
        );
        assert_eq!(chosen("/../../etc//passwd").as_deref(), Some("%2E./%2E./etc|passwd"));
        assert_eq!(chosen("a\\..\\.b").as_deref(), Some("a/%2E.|%2Eb"));
        assert_eq!(chosen("//"), None);
    }

    proptest! {
        #[test]
        fn no_text_escapes_its_folder(text: String) {
            let part = path_segment(&text);
            let path = std::path::Path::new(&part);
            prop_assert_eq!(path.components().count(), 1);
            prop_assert!(matches!(path.components().next(), Some(std::path::Component::Normal(_))));
            prop_assert!(part.len() <= 220 && !part.contains('\0'));
        }
    }
}
