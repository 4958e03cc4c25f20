//! HQ's export API: orders a job, reads its progress, and names its files.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::FileName;
use crate::change::Version;
use crate::hq::{Hq, HqError};

/// What is ordered; nothing named means all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExportRequest {
    /// Only what changed since, Unix milliseconds.
    pub time_offset_ms: Option<i64>,
    /// Ids of companies.
    pub companies: Vec<String>,
    /// Ids of locations.
    pub locations: Vec<String>,
    /// Names of tables.
    pub tables: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ordered {
    job_id: String,
}

/// How far a job is.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct ExportJob {
    /// Whether no table is in work any more.
    #[serde(default)]
    pub completed: bool,
    /// By name: how far each table is.
    #[serde(default)]
    pub tables: BTreeMap<String, JobTable>,
}

/// How far a table is.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct JobTable {
    /// HQ's word for it.
    #[serde(default)]
    pub status: String,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<String>,
    /// Where its files are, once it is done; a URL is valid for a while.
    #[serde(default)]
    pub urls: Option<Vec<String>>,
    /// Nanoseconds, as a text.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// A file where HQ has put it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteFile {
    /// The name of the file, from its URL.
    pub name: FileName,
    /// Where it is; the URL's parameters are the key to it.
    pub url: String,
}

impl JobTable {
    /// Whether the table will not come.
    pub fn is_failed(&self) -> bool {
        self.status.eq_ignore_ascii_case("failed")
    }

    /// Whether all its files are there.
    pub fn is_done(&self) -> bool {
        self.status.eq_ignore_ascii_case("completed")
    }

    /// When the rows of a table without files were read.
    pub fn cursor(&self) -> Option<Version> {
        let text = self.cursor.as_deref()?;
        Version::parse(text)
    }

    /// The files of the table; an error names one whose name cannot be read.
    pub fn files(&self) -> Result<Vec<RemoteFile>, String> {
        let file = |url: &String| {
            let parsed = url::Url::parse(url)
                .map_err(|e| format!("HQ names a file by what is no URL: {e}"))?;
            let text = parsed.path().rsplit('/').next().unwrap_or_default();
            let text = percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
            let safe = !text.contains(['/', '\\']) && !text.starts_with('.');
            let name = FileName::parse(&text).filter(|_| safe).ok_or_else(|| {
                format!(
                    "the name of the \
                    export's file {text:?} is not of the form <time>-…-<table>-<id>.ndjson.gz"
                )
            })?;
            Ok(RemoteFile { name, url: url.clone() })
        };
        self.urls.iter().flatten().map(file).collect()
    }
}

/// Orders an export; the job's id.
pub async fn order(hq: &Hq, order: &ExportRequest) -> Result<String, HqError> {
    let mut body = Map::new();
    if let Some(ms) = order.time_offset_ms {
        body.insert("timeOffset".into(), json!(ms));
    }
    for (name, all) in [
        ("companyIds", &order.companies),
        ("locationIds", &order.locations),
        ("tables", &order.tables),
    ] {
        if !all.is_empty() {
            body.insert(name.into(), json!(all));
        }
    }
    let ordered: Ordered =
        hq.call(Method::POST, "/v3/export/bulk", Some(Value::Object(body))).await?;
    Ok(ordered.job_id)
}

/// How far the job is.
pub async fn look(hq: &Hq, job: &str) -> Result<ExportJob, HqError> {
    let id = percent_encoding::utf8_percent_encode(job, percent_encoding::NON_ALPHANUMERIC);
    hq.call(Method::GET, &format!("/v3/export/bulk/{id}"), None).await
}
