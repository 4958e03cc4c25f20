//! The lines of a file, gzipped or not, block by block: each block one piece of memory that its
//! lines share.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use memchr::memchr_iter;

use crate::change::json::BYTE_ORDER_MARK;

/// The longest line, in bytes: longer ones cannot be rows.
pub const LINE_BYTES_MAX: usize = 64 << 20;
const BUFFER_BYTES: usize = 256 << 10;

/// Lines of one piece of memory; each without its line end.
#[derive(Debug)]
pub struct Block {
    /// How many lines of the file come before it.
    pub after_lines: u64,
    /// Blank lines among them are empty.
    pub lines: Vec<Bytes>,
    /// Whether the file ends with it.
    pub is_last: bool,
}

/// Reads a file forwards.
pub struct Lines {
    from: Box<dyn BufRead + Send>,
    /// What was read beyond the last block.
    rest: BytesMut,
    lines: u64,
    ended: bool,
    read: Arc<AtomicU64>,
}

/// Counts what passes.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Lines {
    /// Opens a file. Its first bytes show whether it is gzipped; a byte order mark is passed over.
    /// An empty file whose name says that it is gzipped was cut off.
    pub fn open(path: &Path) -> io::Result<Lines> {
        let read = Arc::new(AtomicU64::new(0));
        let mut raw = BufReader::with_capacity(
            BUFFER_BYTES,
            Counted { file: File::open(path)?, read: read.clone() },
        );
        let first = raw.fill_buf()?;
        if first.is_empty() && path.extension().is_some_and(|extension| extension == "gz") {
            let why = "it has not even the beginning of a gzipped file";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        let gzipped = first.starts_with(&[0x1f, 0x8b]);
        let mut from: Box<dyn BufRead + Send> = if gzipped {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(raw)))
        } else {
            Box::new(raw)
        };
        if from.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
            from.consume(BYTE_ORDER_MARK.len());
        }
        Ok(Lines { from, rest: BytesMut::new(), lines: 0, ended: false, read })
    }

    /// Bytes that were read of the file as it is stored.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Lines that were given out.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The next lines, of about `bytes_max` together, or one longer one; `None` at the end. A file
    /// without lines has one block without lines.
    pub fn next(&mut self, bytes_max: usize, lines_max: usize) -> io::Result<Option<Block>> {
        if self.ended {
            return Ok(None);
        }
        // One piece of memory of the right size: what grows would be twice as large.
        let rest = std::mem::take(&mut self.rest);
        let mut text = BytesMut::with_capacity(bytes_max.max(rest.len()) + BUFFER_BYTES);
        text.extend_from_slice(&rest);
        drop(rest);
        loop {
            let whole = memchr::memrchr(b'\n', &text).map_or(0, |at| at + 1);
            if whole > 0 && text.len() >= bytes_max {
                break;
            }
            if text.len() > LINE_BYTES_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("line {} is longer than {LINE_BYTES_MAX} bytes", self.lines + 1),
                ));
            }
            let more = self.from.fill_buf()?;
            if more.is_empty() {
                self.ended = true;
                break;
            }
            text.extend_from_slice(more);
            let n = more.len();
            self.from.consume(n);
        }
        Ok(Some(self.cut(text, lines_max)))
    }

    fn cut(&mut self, mut text: BytesMut, lines_max: usize) -> Block {
        let ends: Vec<usize> = memchr_iter(b'\n', &text).take(lines_max).collect();
        let mut take = ends.last().map_or(0, |at| at + 1);
        let mut tail = None;
        if self.ended && ends.len() < lines_max {
            tail = (take < text.len()).then_some((take, text.len()));
            take = text.len();
        } else {
            self.ended = false;
        }
        self.rest = text.split_off(take);
        let text = text.freeze();
        let mut from = 0;
        let mut lines = Vec::with_capacity(ends.len() + 1);
        for end in ends {
            lines.push(trimmed(&text, from, end));
            from = end + 1;
        }
        lines.extend(tail.map(|(from, to)| trimmed(&text, from, to)));
        let after_lines = self.lines;
        self.lines += lines.len() as u64;
        Block { after_lines, lines, is_last: self.ended }
    }
}

fn trimmed(text: &Bytes, from: usize, to: usize) -> Bytes {
    let line = text[from..to].trim_ascii();
    if line.is_empty() { Bytes::new() } else { text.slice_ref(line) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(
        content: &[u8],
        bytes_max: usize,
        lines_max: usize,
    ) -> io::Result<Vec<(u64, Vec<String>, bool)>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("f");
        std::fs::write(&path, content)?;
        let mut lines = Lines::open(&path)?;
        let mut blocks = Vec::new();
        while let Some(block) = lines.next(bytes_max, lines_max)? {
            blocks.push((
                block.after_lines,
                block.lines.iter().map(|l| String::from_utf8_lossy(l).into_owned()).collect(),
                block.is_last,
            ));
        }
        Ok(blocks)
    }

    fn gzip(content: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(content)?;
        out.finish()
    }

    #[test]
    fn lines_come_in_blocks_however_they_end() -> io::Result<()> {
        let text = b"{\"a\":1}\r\n\n{\"b\":2}\n{\"c\":3}";
        for content in [text.to_vec(), gzip(text)?, [gzip(&text[..5])?, gzip(&text[5..])?].concat()]
        {
            for (bytes_max, lines_max) in [(1, 10), (1, 1), (1000, 10), (9, 2)] {
                let blocks = read(&content, bytes_max, lines_max)?;
                let all: Vec<_> = blocks.iter().flat_map(|(_, lines, _)| lines.clone()).collect();
                assert_eq!(all, ["{\"a\":1}", "", "{\"b\":2}", "{\"c\":3}"]);
                let mut counted = 0;
                for (i, (after, lines, is_last)) in blocks.iter().enumerate() {
                    assert_eq!((*after, *is_last), (counted, i + 1 == blocks.len()));
                    counted += lines.len() as u64;
                }
            }
        }
        assert_eq!(read(b"", 10, 10)?, [(0, Vec::new(), true)]);
        assert_eq!(read(b"x\n", 10, 10)?, [(0, vec!["x".to_owned()], true)]);
        let marked = [BYTE_ORDER_MARK, b"x\n"].concat();
        for content in [marked.clone(), gzip(&marked)?] {
            assert_eq!(read(&content, 10, 10)?, [(0, vec!["x".to_owned()], true)]);
        }
        Ok(())
    }

    #[test]
    fn a_file_that_breaks_off_is_an_error() -> io::Result<()> {
        let whole = gzip(&b"{\"a\":1}\n".repeat(1000))?;
        assert!(read(&whole[..whole.len() - 9], 100, 10).is_err());
        let dir = tempfile::tempdir()?;
        let empty = dir.path().join("f.ndjson.gz");
        std::fs::write(&empty, "")?;
        assert!(Lines::open(&empty).is_err());
        Ok(())
    }
}
