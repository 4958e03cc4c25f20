//! Jobs of HQ's export API: ordered, waited for, and their files.

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
    pub companies: Vec<String>,
    pub locations: Vec<String>,
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
    #[serde(default)]
    pub completed: bool,
    #[serde(default)]
    pub tables: BTreeMap<String, JobTable>,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct JobTable {
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub error: Option<String>,
    #[serde(default)]
    pub urls: Option<Vec<String>>,
    /// Nanoseconds, as a text.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// A file where HQ has put it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteFile {
    pub name: FileName,
    pub url: String,
}

impl JobTable {
    pub fn is_failed(&self) -> bool {
        self.status.eq_ignore_ascii_case("failed")
    }

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
