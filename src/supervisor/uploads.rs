//! Uploads of logs to HQ's storage; what was uploaded is removed from this machine unless it is to
//! be kept.

use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tracing::warn;

use crate::http::Http;
use crate::logs;

/// The content type that HQ's storage expects, although the content is no archive.
const CONTENT_TYPE: &str = "application/x-tgz";

/// The contents of the files, concatenated and compressed by gzip. Blocks.
fn compressed(files: &[PathBuf]) -> std::io::Result<Bytes> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    for file in files {
        std::io::copy(&mut std::fs::File::open(file)?, &mut out)?;
    }
    Ok(out.finish()?.into())
}

/// The log files of `dir` that are not in `open` and were not uploaded before, oldest first.
pub fn closed(dir: &Path, open: &[PathBuf]) -> Vec<PathBuf> {
    let files = logs::files(dir).unwrap_or_else(|e| {
        if e.kind() != std::io::ErrorKind::NotFound {
            warn!("the logs in {} cannot be listed: {e}", dir.display());
        }
        Vec::new()
    });
    files
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| !open.contains(path) && !logs::is_sent(path))
        .collect()
}

/// Uploads `files` as one, then removes them; with `keep` it marks them as sent instead.
pub async fn send(http: &Http, url: &str, files: Vec<PathBuf>, keep: bool) -> Result<(), String> {
    if files.is_empty() {
        return Ok(());
    }
    let (content, files) = tokio::task::spawn_blocking(move || (compressed(&files), files))
        .await
        .map_err(|e| e.to_string())?;
    let content = content.map_err(|e| format!("the logs cannot be read: {e}"))?;
    http.put(url, content, CONTENT_TYPE)
        .await
        .map_err(|e| format!("the logs cannot be uploaded: {e}"))?;
    for file in files {
        let done = if keep { logs::mark_sent(&file) } else { std::fs::remove_file(&file) };
        if let Err(e) = done {
            warn!("{} was uploaded and cannot be removed: {e}", file.display());
        }
    }
    Ok(())
}

/// Uploads what a worker that crashed wrote last.
pub async fn send_text(http: &Http, url: &str, text: &str) -> Result<(), String> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    let content =
        out.write_all(text.as_bytes()).and_then(|()| out.finish()).map_err(|e| e.to_string())?;
    http.put(url, content.into(), CONTENT_TYPE)
        .await
        .map_err(|e| format!("the worker's last output cannot be uploaded: {e}"))
}

/// The path of an upload's address, by which HQ names the upload; without the signature that the
/// address holds.
pub fn path_of(url: &str) -> String {
    url::Url::parse(url).map_or_else(|_| String::new(), |url| url.path().to_owned())
}
