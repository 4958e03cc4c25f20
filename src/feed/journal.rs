//! A journal: files with one event per line, optionally compressed by gzip, or standard input.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use tokio::sync::mpsc;

use super::{Acknowledged, Delivery, Encoding, Feed, FeedError, OpenAt, Opened, Signal};
use crate::change::Position;
use crate::change::json::BYTE_ORDER_MARK;

/// Pieces that wait between the reading thread and the engine, at most.
const PIECES_WAITING_MAX: usize = 2;
/// A piece of a file is full with so many bytes, or so many lines.
const PIECE_BYTES: usize = 512 << 10;
const PIECE_LINES: usize = 1024;
/// The most bytes of a line; the rest of a longer one is read as another line.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// The lines of the files in the order of their names. A position is the number of a line over all
/// files, empty lines included. Nothing is acknowledged to anybody.
pub struct Journal {
    sources: Vec<JournalSource>,
    reader: Option<JournalReader>,
}

#[derive(Clone)]
enum JournalSource {
    Stdin,
    File(PathBuf),
}

struct JournalReader {
    pieces: mpsc::Receiver<Result<Vec<Delivery>, FeedError>>,
    /// What of the last piece is still to be delivered.
    rest: VecDeque<Delivery>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for JournalReader {
    fn drop(&mut self) {
        // The thread ends at its next send; one that waits for standard input ends with the
        // process.
        self.pieces.close();
        if let Some(thread) = self.thread.take().filter(std::thread::JoinHandle::is_finished) {
            let _ = thread.join();
        }
    }
}

impl Journal {
    /// `path`: a file, a directory of files, or `-` for standard input. Reads nothing yet, but an
    /// error says if the path cannot be read.
    pub fn new(path: &Path) -> Result<Journal, FeedError> {
        if path == Path::new("-") {
            return Ok(Journal { sources: vec![JournalSource::Stdin], reader: None });
        }
        let unreadable = |e: std::io::Error| {
            FeedError::Misconfigured(format!("the journal {} cannot be read: {e}", path.display()))
        };
        if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
            return Ok(Journal {
                sources: vec![JournalSource::File(path.to_owned())],
                reader: None,
            });
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            if file.is_file() {
                files.push(file);
            }
        }
        files.sort();
        Ok(Journal { sources: files.into_iter().map(JournalSource::File).collect(), reader: None })
    }

    /// What tells this journal from another of the same name: a hash of its first line, which stays
    /// the same while the journal grows. `None` for standard input, and where there is no line yet.
    pub fn fingerprint(&self) -> Result<Option<u64>, FeedError> {
        for source in &self.sources {
            let JournalSource::File(path) = source else { return Ok(None) };
            let unreadable = |e: std::io::Error| {
                FeedError::Misconfigured(format!("{} cannot be read: {e}", path.display()))
            };
            let mut from = open(source).map_err(unreadable)?;
            while let Some(line) = next_line(&mut from).map_err(unreadable)? {
                let line = line.trim_ascii();
                if !line.is_empty() {
                    return Ok(Some(xxhash_rust::xxh3::xxh3_64(line)));
                }
            }
        }
        Ok(None)
    }
}

/// The next line with its end; `None` after the last.
fn next_line(from: &mut Box<dyn BufRead>) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    Ok((read > 0).then_some(line))
}

fn open(source: &JournalSource) -> std::io::Result<Box<dyn BufRead>> {
    let raw: Box<dyn Read> = match source {
        JournalSource::Stdin => Box::new(std::io::stdin()),
        JournalSource::File(path) => Box::new(File::open(path)?),
    };
    let mut buffered = BufReader::with_capacity(256 << 10, raw);
    let gzipped = buffered.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    let mut lines: Box<dyn BufRead> = if gzipped {
        Box::new(BufReader::with_capacity(256 << 10, MultiGzDecoder::new(buffered)))
    } else {
        Box::new(buffered)
    };
    if lines.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
        lines.consume(BYTE_ORDER_MARK.len());
    }
    Ok(lines)
}

/// Sends the lines after line `skip` until all are read or nobody listens.
fn read_lines(
    sources: &[JournalSource],
    skip: u64,
    pieces: &mpsc::Sender<Result<Vec<Delivery>, FeedError>>,
) {
    let mut sequence = 0;
    for source in sources {
        let name = match source {
            JournalSource::Stdin => "standard input".to_owned(),
            JournalSource::File(path) => path.display().to_string(),
        };
        if let Err(e) = read_source(source, &name, skip, &mut sequence, pieces) {
            let _ = pieces.blocking_send(Err(FeedError::Misconfigured(format!(
                "{name} cannot be read after line {sequence}: {e}"
            ))));
            return;
        }
    }
}

fn read_source(
    source: &JournalSource,
    name: &str,
    skip: u64,
    sequence: &mut u64,
    pieces: &mpsc::Sender<Result<Vec<Delivery>, FeedError>>,
) -> std::io::Result<()> {
    let mut from = open(source)?;
    let (mut number, mut piece, mut bytes) = (0, Vec::new(), 0);
    while let Some(line) = next_line(&mut from)? {
        let payload = line.trim_ascii();
        let is_file = matches!(source, JournalSource::File(_));
        if is_file && !line.ends_with(b"\n") && !is_json(payload) && from.fill_buf()?.is_empty() {
            tracing::warn!("{name}: the last line is not finished, and left for the next time");
            break;
        }
        number += 1;
        *sequence += 1;
        if *sequence <= skip || payload.is_empty() {
            continue;
        }
        bytes += payload.len();
        piece.push(Delivery {
            position: Position { sequence: *sequence, time_ns: 0 },
            subject: format!("{name}:{number}"),
            payload: Bytes::copy_from_slice(payload),
            encoding: Encoding::Json,
            pending: None,
        });
        // Nobody knows when the next line of standard input comes.
        let is_full = bytes >= PIECE_BYTES || piece.len() >= PIECE_LINES;
        if is_full || matches!(source, JournalSource::Stdin) {
            bytes = 0;
            if pieces.blocking_send(Ok(std::mem::take(&mut piece))).is_err() {
                return Ok(());
            }
        }
    }
    if !piece.is_empty() {
        let _ = pieces.blocking_send(Ok(piece));
    }
    Ok(())
}

fn is_json(line: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
}

#[async_trait]
impl Feed for Journal {
    async fn acknowledged(&mut self) -> Result<Acknowledged, FeedError> {
        Ok(Acknowledged::Nothing)
    }

    async fn open(&mut self, OpenAt { after, .. }: OpenAt) -> Result<Opened, FeedError> {
        if self.reader.is_some() && matches!(self.sources[..], [JournalSource::Stdin]) {
            return Err(FeedError::Misconfigured(
                "standard input can be read only once; put the journal into a file".into(),
            ));
        }
        let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
        let (sources, skip) = (self.sources.clone(), after.map_or(0, |p| p.sequence));
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || read_lines(&sources, skip, &sender))
            .map_err(|e| FeedError::Unavailable(format!("no thread for the journal: {e}")))?;
        let rest = VecDeque::new();
        self.reader = Some(JournalReader { pieces, rest, thread: Some(thread) });
        Ok(Opened::default())
    }

    async fn next(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<Signal, FeedError> {
        let Some(reader) = &mut self.reader else { return Ok(Signal::Ended) };
        if reader.rest.is_empty() {
            match reader.pieces.recv().await {
                Some(piece) => reader.rest = piece?.into(),
                None => return Ok(Signal::Ended),
            }
        }
        let taken = reader.rest.len().min(max);
        into.extend(reader.rest.drain(..taken));
        Ok(Signal::Delivered)
    }

    async fn acknowledge(&mut self, _through: Position) -> Result<(), FeedError> {
        Ok(())
    }

    async fn close(&mut self) -> Result<(), FeedError> {
        self.reader = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_known_by_its_first_line_however_it_grows() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let known = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap_or_else(|e| panic!("{e}"));
            Journal::new(&path).and_then(|j| j.fingerprint()).unwrap_or_else(|e| panic!("{e}"))
        };
        let first = known("j", "\n{\"id\":\"1\"}\n");
        assert_eq!(known("k", "{\"id\":\"1\"}\n{\"id\":\"2\"}\n"), first);
        assert_ne!(known("j", "{\"id\":\"3\"}\n"), first);
        assert_eq!(known("empty", ""), None);
    }
}
