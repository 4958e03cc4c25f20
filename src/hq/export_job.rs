//! HQ's export jobs: how one is ordered, how far it is, and where its files are.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Hq, HqError};
use crate::change::Version;
use crate::export::FileName;
use crate::http::path_part;

/// What HQ is to export; an empty list means all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExportRequest {
    /// Only rows that changed since then, Unix milliseconds.
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

/// How far an export job is.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct ExportJob {
    /// Every table is done or failed.
    #[serde(default)]
    pub completed: bool,
    /// By table name.
    #[serde(default)]
    pub tables: BTreeMap<String, JobTable>,
}

/// How far one table of an export job is.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct JobTable {
    /// `Pending`, `Completed` or `Failed`, in any case.
    #[serde(default)]
    pub status: String,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<String>,
    /// The addresses of its files, which expire; none where the table has no rows.
    #[serde(default)]
    pub urls: Option<Vec<String>>,
    /// When its rows were read: Unix nanoseconds, as a text.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// A file of an export in HQ's storage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteFile {
    /// The name, which says table and time.
    pub name: FileName,
    /// Where it is; its parameters are a key to it, so it is never shown.
    pub url: String,
}

impl JobTable {
    /// Another job has to be ordered.
    pub fn is_failed(&self) -> bool {
        self.status.eq_ignore_ascii_case("failed")
    }

    /// All its files are there.
    pub fn is_done(&self) -> bool {
        self.status.eq_ignore_ascii_case("completed")
    }

    /// When the table's rows were read; tells it of a table without files.
    pub fn cursor(&self) -> Option<Version> {
        let text = self.cursor.as_deref()?;
        Version::parse(text)
    }

    /// The table's files. An error names a file whose name is not that of an export's file: it
    /// could lead out of the directory, and its table and time would be unknown.
    pub fn files(&self) -> Result<Vec<RemoteFile>, String> {
        let file = |url: &String| {
            let parsed = url::Url::parse(url)
                .map_err(|e| format!("HQ names a file by what is no URL: {e}"))?;
            let text = parsed.path().rsplit('/').next().unwrap_or_default();
            let text = percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
            let safe = !text.contains(['/', '\\']) && !text.starts_with('.');
            let name = FileName::parse(&text).filter(|_| safe).ok_or_else(|| {
                format!(
                    "the name of the export's file {text:?} is not of the form \
                     <time>-…-<table>-<id>.ndjson.gz"
                )
            })?;
            Ok(RemoteFile { name, url: url.clone() })
        };
        self.urls.iter().flatten().map(file).collect()
    }
}

/// Orders an export; returns the job's id.
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

/// Asks how far `job` is; its files get new addresses by that.
pub async fn look(hq: &Hq, job: &str) -> Result<ExportJob, HqError> {
    let id = path_part(job);
    hq.call(Method::GET, &format!("/v3/export/bulk/{id}"), None).await
}
