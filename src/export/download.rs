//! A file of an export from where HQ has put it: resumed where it broke off, complete or not there
//! under its name.

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

/// Tries in a row that bring nothing, after which a download is given up.
const FRUITLESS_TRIES_MAX: u32 = 6;
/// Between two tries of one file.
const WAITS: Waits =
    Waits { at_once: false, first: Duration::from_millis(300), longest: Duration::from_secs(15) };
/// What a file is called while it is not complete.
const PART: &str = "part";

/// Why a file did not come; without the URL, whose parameters are a key to it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL does not hold any more (403, 404, 410): HQ gives a new one.
    #[error("its download address has expired ({0})")]
    Expired(u16),
    #[error("{0}")]
    Failed(String),
}

enum FetchAttempt {
    Complete,
    /// It broke off; whether something came before.
    Broken(String, bool),
}

/// Brings `url` to the file `to`; `tell` hears how many more bytes have come (fewer, where it
/// begins again).
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
    let failed = |e: std::io::Error| {
        FetchError::Failed(format!("{} cannot be written: {e}", part.display()))
    };
    let (mut fruitless, mut backoff) = (0, Backoff::new(WAITS));
    let there = fs::metadata(&part).await.map_or(0, |m| m.len());
    tell(there as i64);
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
    let failed = |e: std::io::Error| {
        FetchError::Failed(format!("{} cannot be written: {e}", part.display()))
    };
    let there = fs::metadata(part).await.map_or(0, |m| m.len());
    let mut response = match http.fetch(url, there).await {
        Ok(response) => response,
        Err(e) => {
            return Ok(FetchAttempt::Broken(
                format!("no answer: {}", chain(&e.without_url())),
                false,
            ));
        }
    };
    let status = response.status();
    let total = total(&response, there);
    let from = match status {
        StatusCode::PARTIAL_CONTENT if total.is_some_and(|total| total >= there) => there,
        // The server does not resume: from the beginning.
        StatusCode::OK => 0,
        StatusCode::RANGE_NOT_SATISFIABLE if total == Some(there) => {
            return Ok(FetchAttempt::Complete);
        }
        // What is there is not a part of what is offered now.
        StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
            fs::remove_file(part).await.map_err(failed)?;
            tell(-(there as i64));
            return Ok(FetchAttempt::Broken("the downloaded part did not match".into(), false));
        }
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE => {
            return Err(FetchError::Expired(status.as_u16()));
        }
        other => return Ok(FetchAttempt::Broken(format!("the server answers {other}"), false)),
    };
    let mut options = OpenOptions::from(private::options());
    options.create(true).write(true).truncate(from == 0).append(from > 0);
    let mut file = options.open(part).await.map_err(failed)?;
    tell(from as i64 - there as i64);
    let mut size = from;
    let broken = loop {
        match response.chunk().await {
            Ok(Some(bytes)) => {
                file.write_all(&bytes).await.map_err(failed)?;
                size += bytes.len() as u64;
                tell(bytes.len() as i64);
            }
            Ok(None) if total.is_none_or(|total| total == size) => break None,
            Ok(None) => break Some("it broke off".to_owned()),
            Err(e) => break Some(format!("it broke off: {}", chain(&e.without_url()))),
        }
    };
    file.flush().await.map_err(failed)?;
    Ok(broken.map_or(FetchAttempt::Complete, |why| FetchAttempt::Broken(why, size > from)))
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
