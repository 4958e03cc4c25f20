//! A journal: files with one event per line, optionally compressed by gzip, or standard input.

mod parts;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use tokio::sync::mpsc;

use parts::{GZIP, JournalPart, finished_length, is_gzip};

use super::{Acknowledged, Delivery, Feed, FeedError, OpenAt, Opened, Signal};
use crate::change::Position;
use crate::change::json::BYTE_ORDER_MARK;
use crate::help::HelpCode;

/// Pieces that wait between the reading thread and the engine, at most.
const PIECES_WAITING_MAX: usize = 2;
/// A piece of a file is full with so many bytes, or so many lines.
const PIECE_BYTES: usize = 512 << 10;
const PIECE_LINES: usize = 1024;
/// The most bytes of a line; the rest of a longer one is read as another line.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// The lines of the files in the order of their names. A position is the number of a line over all
/// files, empty lines included; what files get later follows. Nothing is acknowledged to anybody.
pub struct Journal {
    sources: Vec<JournalSource>,
    reader: Option<JournalReader>,
}

#[derive(Clone)]
enum JournalSource {
    Stdin,
    /// A pipe or another file that gives what it has only once.
    Pipe(PathBuf),
    File(PathBuf),
    /// The bytes of a file from one to before another; to its end where there is no other.
    Part(PathBuf, u64, Option<u64>),
}

impl JournalSource {
    /// Its name for people.
    fn shown(&self) -> String {
        match self {
            JournalSource::Stdin => "standard input".to_owned(),
            JournalSource::Pipe(path)
            | JournalSource::File(path)
            | JournalSource::Part(path, ..) => path.display().to_string(),
        }
    }

    /// The file, if it can be read again, and its name.
    fn file(&self) -> Option<(&Path, String)> {
        match self {
            JournalSource::Stdin | JournalSource::Pipe(_) => None,
            JournalSource::File(path) | JournalSource::Part(path, ..) => {
                let name = path.file_name().unwrap_or(path.as_os_str());
                Some((path, name.to_string_lossy().into_owned()))
            }
        }
    }
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
            FeedError::Misconfigured(
                HelpCode::Journal
                    .tag(&format!("the journal {} cannot be read: {e}", path.display())),
            )
        };
        let found = std::fs::metadata(path).map_err(unreadable)?;
        if !found.is_dir() {
            let path = path.to_owned();
            let source = match found.is_file() {
                true => JournalSource::File(path),
                false => JournalSource::Pipe(path),
            };
            return Ok(Journal { sources: vec![source], reader: None });
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

    /// Whether it can be read only once: it is standard input or a pipe. It has no positions.
    pub fn is_read_once(&self) -> bool {
        self.sources.iter().any(|source| source.file().is_none())
    }

    /// What tells this journal from another of the same name: a hash of its first line, which stays
    /// the same while the journal grows. `None` where it can be read only once, and where there is
    /// no line yet.
    pub fn fingerprint(&self) -> Result<Option<u64>, FeedError> {
        for source in &self.sources {
            let Some((path, _)) = source.file() else { return Ok(None) };
            let unreadable = |e: std::io::Error| unreadable(path, &e);
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

fn unreadable(path: &Path, e: &std::io::Error) -> FeedError {
    let text = format!("{} cannot be read: {e}", path.display());
    FeedError::Misconfigured(HelpCode::Journal.tag(&text))
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
        JournalSource::Pipe(path) | JournalSource::File(path) => Box::new(File::open(path)?),
        JournalSource::Part(path, from, to) => {
            let mut file = File::open(path)?;
            let is_gzip = is_gzip(&mut file)?;
            file.seek(SeekFrom::Start(*from))?;
            let part = file.take(to.map_or(u64::MAX, |to| to - from));
            return lines_of(Box::new(part), Some(is_gzip));
        }
    };
    lines_of(raw, None)
}

/// The lines of a file or a part of it, of which it is known or not whether its file is compressed.
fn lines_of(raw: Box<dyn Read>, of_gzip: Option<bool>) -> std::io::Result<Box<dyn BufRead>> {
    let mut buffered = BufReader::with_capacity(256 << 10, raw);
    let gzipped = buffered.fill_buf()?.starts_with(&GZIP);
    if of_gzip.is_some_and(|of_gzip| of_gzip != gzipped && !buffered.buffer().is_empty()) {
        let why = "what was added to it is not compressed as the rest is";
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why));
    }
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
        let name = source.shown();
        if let Err(e) = read_source(source, &name, skip, &mut sequence, pieces) {
            let _ = pieces.blocking_send(Err(FeedError::Misconfigured(
                HelpCode::Journal.tag(&format!("{name} cannot be read after line {sequence}: {e}")),
            )));
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
    let (mut number, mut piece, mut bytes) = (lines_before(source)?, Vec::new(), 0);
    while let Some(line) = next_line(&mut from)? {
        let payload = line.trim_ascii();
        let is_file = source.file().is_some();
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
        piece.push(Delivery::of_event(
            Position { sequence: *sequence, time_ns: 0 },
            format!("{name}:{number}"),
            Bytes::copy_from_slice(payload),
        ));
        // Nobody knows when the next line of what others write comes.
        let is_full = bytes >= PIECE_BYTES || piece.len() >= PIECE_LINES;
        if is_full || !is_file {
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

/// How many lines its file has before a part.
fn lines_before(source: &JournalSource) -> std::io::Result<u64> {
    let JournalSource::Part(path, to @ 1.., _) = source else { return Ok(0) };
    let mut before = open(&JournalSource::Part(path.clone(), 0, Some(*to)))?;
    let mut lines = 0;
    while next_line(&mut before)?.is_some() {
        lines += 1;
    }
    Ok(lines)
}

fn is_json(line: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
}

#[async_trait]
impl Feed for Journal {
    async fn acknowledged(&mut self) -> Result<Acknowledged, FeedError> {
        Ok(Acknowledged::Nothing)
    }

    fn layout(&mut self, kept: Option<&str>) -> Result<Option<String>, FeedError> {
        let mut files = Vec::new();
        let mut paths = std::collections::BTreeMap::new();
        for source in &self.sources {
            let Some((path, name)) = source.file() else { return Ok(None) };
            let length = finished_length(path).map_err(|e| unreadable(path, &e))?;
            paths.insert(name.clone(), path.to_owned());
            files.push((name, length));
        }
        let changed = |why: String| {
            FeedError::Misconfigured(HelpCode::Journal.tag(&format!(
                "the journal is not what it was: {why}. Put back what was there, replay what is \
                 new as a journal of its own, or apply all of it again with --restart"
            )))
        };
        let kept: Vec<JournalPart> = kept
            .map_or(Ok(Vec::new()), serde_json::from_str)
            .map_err(|e| changed(format!("what was kept of it cannot be read: {e}")))?;
        let parts = parts::parts(kept, &files).map_err(changed)?;
        let last = parts.len().saturating_sub(1);
        let source = |(index, part): (usize, &JournalPart)| {
            let path = paths.get(&part.file).cloned().unwrap_or_default();
            JournalSource::Part(path, part.from, (index < last).then_some(part.to))
        };
        self.sources = parts.iter().enumerate().map(source).collect();
        Ok(serde_json::to_string(&parts).ok())
    }

    async fn open(&mut self, OpenAt { after, .. }: OpenAt) -> Result<Opened, FeedError> {
        if self.reader.is_some() && self.is_read_once() {
            let name = self.sources.first().map(JournalSource::shown).unwrap_or_default();
            let why = format!("{name} can be read only once; put the journal into a file");
            return Err(FeedError::Misconfigured(HelpCode::Journal.tag(&why)));
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
