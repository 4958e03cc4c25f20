//! Downloads a file of an export: a download that broke off is resumed, and only a complete file
//! gets its name.

use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;
use tracing::debug;

use crate::backoff::{Backoff, Waits};
use crate::cause::chain;
use crate::http::Http;
use crate::private;

/// Tries in a row that bring nothing, after which a download fails.
const FRUITLESS_TRIES_MAX: u32 = 6;
/// Between two tries of one file.
const WAITS: Waits =
    Waits { at_once: false, first: Duration::from_millis(300), longest: Duration::from_secs(15) };
/// What a file is called while it is not complete.
const PART: &str = "part";

/// Why a file could not be downloaded; without the URL, whose parameters are a key to it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL does not hold any more (403, 404, 410): HQ gives a new one.
    #[error("its download address has expired ({0})")]
    Expired(u16),
    /// The server or the file system fails for this reason, also after several tries.
    #[error("{0}")]
    Failed(String),
}

enum FetchAttempt {
    Complete,
    /// It broke off for this reason; whether anything came before.
    Broken(String, bool),
}

/// Downloads `url` to the file `to`, which exists only once it is complete. `tell` is called with
/// the number of bytes that came, negative where what came before is discarded.
pub async fn fetch(
    http: &Http,
    url: &str,
    to: &Path,
    tell: &(dyn Fn(i64) + Sync),
) -> Result<(), FetchError> {
    let part = to.with_extension(match to.extension() {
        Some(ending) => format!("{}.{PART}", ending.to_string_lossy()),
        None => PART.to_owned(),
    });
    let failed = |e: std::io::Error| unwritable(&part, &e);
    let (mut fruitless, mut backoff) = (0, Backoff::new(WAITS));
    let existing = fs::metadata(&part).await.map_or(0, |m| m.len());
    tell(existing as i64);
    loop {
        match try_once(http, url, &part, tell).await? {
            FetchAttempt::Complete => break,
            FetchAttempt::Broken(_, true) => {
                fruitless = 0;
                backoff.reset();
            }
            FetchAttempt::Broken(why, false) if fruitless >= FRUITLESS_TRIES_MAX => {
                return Err(FetchError::Failed(why));
            }
            FetchAttempt::Broken(why, false) => {
                debug!("{}: {why}; trying again", part.display());
                fruitless += 1;
            }
        }
        sleep(backoff.next_exact()).await;
    }
    File::open(&part).await.map_err(failed)?.sync_all().await.map_err(failed)?;
    fs::rename(&part, to).await.map_err(failed)
}

async fn try_once(
    http: &Http,
    url: &str,
    part: &Path,
    tell: &(dyn Fn(i64) + Sync),
) -> Result<FetchAttempt, FetchError> {
    let failed = |e: std::io::Error| unwritable(part, &e);
    let broken = |why: String| Ok(FetchAttempt::Broken(why, false));
    let existing = fs::metadata(part).await.map_or(0, |m| m.len());
    let response = match http.fetch(url, existing).await {
        Ok(response) => response,
        Err(e) => return broken(format!("no answer: {}", chain(&e.without_url()))),
    };
    let status = response.status();
    let total = total(&response, existing);
    let from = match status {
        StatusCode::PARTIAL_CONTENT if total.is_some_and(|total| total >= existing) => existing,
        // The server does not resume: from the beginning.
        StatusCode::OK => 0,
        StatusCode::RANGE_NOT_SATISFIABLE if total == Some(existing) => {
            return Ok(FetchAttempt::Complete);
        }
        // The part is not the beginning of what the server offers now.
        StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
            fs::remove_file(part).await.map_err(failed)?;
            tell(-(existing as i64));
            return broken("the downloaded part did not match".into());
        }
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE => {
            return Err(FetchError::Expired(status.as_u16()));
        }
        other => return broken(format!("the server answers {other}")),
    };
    let mut options = OpenOptions::from(private::options());
    options.create(true).write(true).truncate(from == 0).append(from > 0);
    let file = options.open(part).await.map_err(failed)?;
    tell(from as i64 - existing as i64);
    receive(response, file, total.map(|total| total - from), tell).await.map_err(failed)
}

/// Appends the response's body to `file`; `expected`: the bytes that have to come, where known.
async fn receive(
    mut response: reqwest::Response,
    mut file: File,
    expected: Option<u64>,
    tell: &(dyn Fn(i64) + Sync),
) -> std::io::Result<FetchAttempt> {
    let mut received = 0;
    let broken = loop {
        match response.chunk().await {
            Ok(Some(bytes)) => {
                file.write_all(&bytes).await?;
                received += bytes.len() as u64;
                tell(bytes.len() as i64);
            }
            Ok(None) if expected.is_none_or(|expected| expected == received) => break None,
            Ok(None) => break Some("it broke off".to_owned()),
            Err(e) => break Some(format!("it broke off: {}", chain(&e.without_url()))),
        }
    };
    file.flush().await?;
    Ok(broken.map_or(FetchAttempt::Complete, |why| FetchAttempt::Broken(why, received > 0)))
}

fn unwritable(part: &Path, error: &std::io::Error) -> FetchError {
    FetchError::Failed(format!("{} cannot be written: {error}", part.display()))
}

/// The size of the whole file, where the server tells.
fn total(response: &reqwest::Response, from: u64) -> Option<u64> {
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
    match response.status() {
        StatusCode::OK => header("Content-Length").and_then(|v| v.parse().ok()),
        _ => match header("Content-Range")
            .and_then(|v| v.rsplit_once('/'))
            .map(|(_, total)| total.parse::<u64>())
        {
            Some(Ok(total)) => Some(total),
            _ => response.content_length().map(|rest| from + rest),
        },
    }
}
