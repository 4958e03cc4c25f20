//! A journal: files with one event per line, optionally compressed by gzip, or standard input.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use tokio::sync::mpsc;

use super::{Delivery, Encoding, Feed, FeedError, OpenAt, Opened, Signal};
use crate::change::Position;

/// Lines that wait between the reading thread and the engine, at most.
const LINES_WAITING_MAX: usize = 1024;
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
    lines: mpsc::Receiver<Result<Delivery, FeedError>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for JournalReader {
    fn drop(&mut self) {
        // The thread ends at its next send; one that waits for standard input ends with the
        // process.
        self.lines.close();
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
}

fn open(source: &JournalSource) -> std::io::Result<Box<dyn BufRead>> {
    let raw: Box<dyn Read> = match source {
        JournalSource::Stdin => Box::new(std::io::stdin()),
        JournalSource::File(path) => Box::new(File::open(path)?),
    };
    let mut buffered = BufReader::with_capacity(256 << 10, raw);
    let gzipped = buffered.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if gzipped {
        Box::new(BufReader::with_capacity(256 << 10, MultiGzDecoder::new(buffered)))
    } else {
        Box::new(buffered)
    })
}

/// Sends the lines after `skip` until all are read or nobody listens.
fn read_lines(
    sources: &[JournalSource],
    skip: u64,
    lines: &mpsc::Sender<Result<Delivery, FeedError>>,
) {
    let mut sequence = 0;
    for source in sources {
        let name = match source {
            JournalSource::Stdin => "standard input".to_owned(),
            JournalSource::File(path) => path.display().to_string(),
        };
        if let Err(e) = read_source(source, &name, skip, &mut sequence, lines) {
            let _ = lines.blocking_send(Err(FeedError::Misconfigured(format!(
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
    lines: &mpsc::Sender<Result<Delivery, FeedError>>,
) -> std::io::Result<()> {
    let mut from = open(source)?;
    let mut number = 0;
    loop {
        let mut line = Vec::new();
        if from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        number += 1;
        *sequence += 1;
        let payload = line.trim_ascii();
        if *sequence <= skip || payload.is_empty() {
            continue;
        }
        let delivery = Delivery {
            position: Position { sequence: *sequence, time_ns: 0 },
            subject: format!("{name}:{number}"),
            payload: Bytes::copy_from_slice(payload),
            encoding: Encoding::Json,
            pending: 0,
        };
        if lines.blocking_send(Ok(delivery)).is_err() {
            return Ok(());
        }
    }
}

#[async_trait]
impl Feed for Journal {
    async fn acknowledged_position(&mut self) -> Result<Option<Position>, FeedError> {
        Ok(None)
    }

    async fn open(&mut self, OpenAt { after, .. }: OpenAt) -> Result<Opened, FeedError> {
        if self.reader.is_some() && matches!(self.sources[..], [JournalSource::Stdin]) {
            return Err(FeedError::Misconfigured(
                "standard input can be read only once; put the journal into a file".into(),
            ));
        }
        let (sender, lines) = mpsc::channel(LINES_WAITING_MAX);
        let (sources, skip) = (self.sources.clone(), after.map_or(0, |p| p.sequence));
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || read_lines(&sources, skip, &sender))
            .map_err(|e| FeedError::Unavailable(format!("no thread for the journal: {e}")))?;
        self.reader = Some(JournalReader { lines, thread: Some(thread) });
        Ok(Opened::default())
    }

    async fn next(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<Signal, FeedError> {
        let Some(reader) = &mut self.reader else { return Ok(Signal::Ended) };
        let Some(first) = reader.lines.recv().await else { return Ok(Signal::Ended) };
        into.push(first?);
        while into.len() < max {
            match reader.lines.try_recv() {
                Ok(line) => into.push(line?),
                Err(_) => break,
            }
        }
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
