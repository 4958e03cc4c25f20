//! Which parts of which files a journal is, in the order in which they are read: positions count
//! lines in it, and have to mean the same at the next start, whatever was added meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::is_json;

/// How a file begins that is compressed by gzip.
pub const GZIP: [u8; 2] = [0x1f, 0x8b];
/// So many bytes are read at once in search of the last line.
const BLOCK_BYTES: u64 = 64 << 10;

/// Neighbouring bytes of one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JournalPart {
    /// The file's name, without its directory.
    pub file: String,
    /// The first byte.
    pub from: u64,
    /// The byte after the last one. Of the last part of all: as far as it is known; it goes on to
    /// the end of its file.
    pub to: u64,
}

/// The parts of a journal whose files (in their order) are of these lengths, `kept` being its parts
/// at an earlier start. What a file got since comes after everything that was there, as nothing may
/// change its place. An error says which file is not what it was.
pub fn parts(
    mut kept: Vec<JournalPart>,
    files: &[(String, u64)],
) -> Result<Vec<JournalPart>, String> {
    let lengths: BTreeMap<&str, u64> = files.iter().map(|(name, len)| (&**name, *len)).collect();
    let mut read: BTreeMap<String, u64> = BTreeMap::new();
    let last = kept.len().saturating_sub(1);
    for (index, part) in kept.iter_mut().enumerate() {
        match lengths.get(&*part.file) {
            None => return Err(format!("{} is missing", part.file)),
            Some(length) if *length < part.to => {
                return Err(format!("{} is shorter than it was", part.file));
            }
            // Nothing comes after it so far.
            Some(length) if index == last => part.to = *length,
            Some(_) => {}
        }
        let through = read.entry(part.file.clone()).or_default();
        *through = part.to.max(*through);
    }
    for (file, length) in files {
        let from = read.get(file).copied().unwrap_or(0);
        if *length > from {
            kept.push(JournalPart { file: file.clone(), from, to: *length });
        }
    }
    Ok(kept)
}

/// The end of the last line that is finished; of what is compressed, the end of the file.
pub fn finished_length(path: &Path) -> std::io::Result<u64> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if is_gzip(&mut file)? {
        return Ok(length);
    }
    let (mut tail, mut from) = (Vec::new(), length);
    let line_end = loop {
        if from == 0 {
            break 0;
        }
        // As much again each time: a long line is not copied often.
        let taken = from.min(BLOCK_BYTES.max(tail.len() as u64));
        from -= taken;
        file.seek(SeekFrom::Start(from))?;
        let mut block = vec![0; taken as usize];
        file.read_exact(&mut block)?;
        let found = block.iter().rposition(|byte| *byte == b'\n');
        block.append(&mut tail);
        tail = block;
        if let Some(at) = found {
            break from + at as u64 + 1;
        }
    };
    let rest = &tail[(line_end - from) as usize..];
    Ok(if is_json(rest.trim_ascii()) { length } else { line_end })
}

/// Whether the file is compressed. It is read from its beginning, or from after that.
pub fn is_gzip(file: &mut File) -> std::io::Result<bool> {
    let mut begin = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.by_ref().take(GZIP.len() as u64).read_to_end(&mut begin)?;
    Ok(begin == GZIP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[(&str, u64, u64)]) -> Vec<JournalPart> {
        let part = |(file, from, to): &(&str, u64, u64)| JournalPart {
            file: (*file).to_owned(),
            from: *from,
            to: *to,
        };
        parts.iter().map(part).collect()
    }

    fn files(lengths: &[(&str, u64)]) -> Vec<(String, u64)> {
        lengths.iter().map(|(name, length)| ((*name).to_owned(), *length)).collect()
    }

    #[test]
    fn what_was_there_keeps_its_place() {
        let first = parts(Vec::new(), &files(&[("a", 10), ("b", 5), ("empty", 0)]));
        assert_eq!(first, Ok(of(&[("a", 0, 10), ("b", 0, 5)])));
        // The last one has grown, then an earlier one and others, which are new.
        let kept = of(&[("a", 0, 10), ("b", 0, 5)]);
        let grown = parts(kept.clone(), &files(&[("a", 10), ("b", 7)]));
        assert_eq!(grown, Ok(of(&[("a", 0, 10), ("b", 0, 7)])));
        let grown = parts(kept, &files(&[("a", 12), ("aa", 3), ("b", 7), ("c", 1)]));
        let expected = of(&[("a", 0, 10), ("b", 0, 7), ("a", 10, 12), ("aa", 0, 3), ("c", 0, 1)]);
        assert_eq!(grown, Ok(expected.clone()));
        // At the next start, too.
        let again = parts(expected.clone(), &files(&[("a", 13), ("aa", 3), ("b", 7), ("c", 1)]));
        assert_eq!(again, Ok([expected, of(&[("a", 12, 13)])].concat()));
    }

    #[test]
    fn a_file_that_is_not_what_it_was_is_named() {
        let kept = || of(&[("a", 0, 10), ("b", 0, 5)]);
        let why = |lengths: &[(&str, u64)]| parts(kept(), &files(lengths)).err();
        assert_eq!(why(&[("b", 5)]).as_deref(), Some("a is missing"));
        assert_eq!(why(&[("a", 9), ("b", 5)]).as_deref(), Some("a is shorter than it was"));
    }

    #[test]
    fn a_line_that_is_not_finished_belongs_to_what_is_added() -> std::io::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let long = format!("{{}}\n{{\"a\":\"{}", "x".repeat(BLOCK_BYTES as usize));
        for (text, expected) in [
            ("", 0),
            ("{}\n", 3),
            ("{}\n{\"a\"", 3),
            ("{}\n{}", 5),
            ("{\"a\"", 0),
            (&*long, 3),
            ("\u{1f}", 0),
        ] {
            std::fs::write(file.path(), text)?;
            assert_eq!(finished_length(file.path())?, expected, "{} bytes", text.len());
        }
        std::fs::write(file.path(), [&GZIP[..], b"..."].concat())?;
        assert_eq!(finished_length(file.path())?, 5);
        Ok(())
    }
}
