//! Names of objects. They contain data, which must not be able to escape the folder.

use crate::change::{Change, Position};
use crate::validator::Validator;

/// The longest value within a segment of a path; a longer one ends in a hash.
const SEGMENT_BYTES_MAX: usize = 180;

/// The longest name that file systems take.
const FILE_BYTES_MAX: usize = 255;

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

    /// The same name made unique by the change's place in the stream and by what is stored: the
    /// same change has it again, and no other ever. `position`: `None` for a row of an import,
    /// which has no place.
    pub fn unique(&self, position: Option<Position>, content: &[u8]) -> Name {
        let place = position
            .map_or_else(|| "import".to_owned(), |position| format!("{:020}", position.sequence));
        let hash = xxhash_rust::xxh3::xxh3_128(content);
        Name { stem: self.extended(&format!("{place}-{hash:032x}")), ..self.clone() }
    }

    /// The stem with something added, shortened where a file system would not take the name.
    fn extended(&self, added: &str) -> String {
        let room = FILE_BYTES_MAX.saturating_sub(added.len() + self.extension.len() + 1);
        if self.stem.len() <= room {
            return format!("{}-{added}", self.stem);
        }
        let hash = format!("-{:016x}", xxhash_rust::xxh3::xxh3_64(self.stem.as_bytes()));
        let end = self.stem.floor_char_boundary(room.saturating_sub(hash.len()));
        format!("{}{hash}-{added}", &self.stem[..end])
    }

    /// The name of an older event that had this one: its own version is added.
    pub fn of_older(&self, version: &str) -> String {
        // A version is as long as the source likes.
        format!("{}{}", self.extended(&short(&path_segment(version))), self.extension)
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

/// What is longer than versions are ends in a hash.
fn short(version: &str) -> String {
    const VERSION_BYTES_MAX: usize = 64;
    if version.len() <= VERSION_BYTES_MAX {
        return version.to_owned();
    }
    let end = version.floor_char_boundary(VERSION_BYTES_MAX - 33);
    format!("{}-{:032x}", &version[..end], xxhash_rust::xxh3::xxh3_128(version.as_bytes()))
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
        let end = out.floor_char_boundary(SEGMENT_BYTES_MAX);
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

    #[test]
    fn an_added_version_never_makes_a_name_too_long() {
        let name = |stem: &str| Name::new("t".into(), stem.to_owned(), ".json");
        let (long, other) = (name(&"é".repeat(120)), name(&format!("{}e", "é".repeat(119))));
        let version = "1720732611708587501.0000000000";
        let kept = long.of_older(version);
        assert!(kept.len() <= 255 && kept.ends_with(&format!("-{version}.json")), "{kept}");
        assert_ne!(kept, other.of_older(version));
        assert_eq!(name("1-k").of_older(version), format!("1-k-{version}.json"));
        assert!(long.of_another_older(&"9".repeat(400), b"content").len() <= 255);
        let at = |sequence| Some(Position { sequence, time_ns: 1 });
        let names = [
            long.unique(at(7), b"a"),
            long.unique(at(8), b"a"),
            long.unique(at(7), b"b"),
            long.unique(None, b"a"),
            other.unique(at(7), b"a"),
        ];
        let distinct: std::collections::HashSet<String> = names.iter().map(Name::file).collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        assert!(distinct.iter().all(|file| file.len() <= 255));
        assert_eq!(name("1-k").unique(at(7), b"a").file(), name("1-k").unique(at(7), b"a").file());
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
