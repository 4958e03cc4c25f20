//! Where an import's files come from: a directory, or a job of HQ whose files are downloaded while
//! others load.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::backoff::{Backoff, Waits};
use crate::change::Version;
use crate::export::download::{FetchError, fetch};
use crate::export::{self, ExportFile};
use crate::hq::export_job::{self as job, ExportJob, RemoteFile};
use crate::hq::{Hq, HqError};
use crate::pipeline::import::{Counts, ExportSource, ImportError};

/// Files that are downloaded at once.
const DOWNLOADS_MAX: usize = 10;
/// Between two looks at a job: small jobs are soon completed.
const LOOK_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_millis(250), longest: Duration::from_secs(5) };
/// How often a file's new address is asked for.
const ADDRESSES_MAX: u32 = 3;

/// What an export has of one table.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// Names of its files.
    pub files: Vec<String>,
    /// The oldest of its files' times; of a table without files, when it was found empty.
    pub at: Option<Version>,
}

/// The tables of an export, and how their files come.
pub struct Export {
    /// The job's id at HQ; of a directory a fingerprint of its files.
    pub job: String,
    /// What it has of each table, by the table's name.
    pub tables: BTreeMap<String, Exported>,
    /// Brings the files.
    pub source: ExportSource,
}

fn oldest(known: Option<Version>, time: Version) -> Option<Version> {
    Some(known.map_or(time, |at| at.min(time)))
}

/// The files of a directory of the tables that `takes` wants; the same files are the same job. The
/// error says why there are none.
pub fn directory(
    dir: &Path,
    takes: impl Fn(&str) -> bool,
    counts: Arc<Counts>,
) -> Result<Export, String> {
    let files: Vec<ExportFile> =
        export::in_directory(dir)?.into_iter().filter(|f| takes(&f.name.table)).collect();
    if files.is_empty() {
        return Err(format!(
            "{} holds no files of an export (*.ndjson.gz) that are asked for",
            dir.display()
        ));
    }
    let mut tables: BTreeMap<String, Exported> = BTreeMap::new();
    let mut print = String::new();
    for file in &files {
        let table = tables.entry(file.name.table.clone()).or_default();
        table.files.push(file.name.text.clone());
        table.at = oldest(table.at, file.name.time);
        print += &format!("{} {}\n", file.name.text, file.bytes);
    }
    let job = format!("dir-{:032x}", xxhash_rust::xxh3::xxh3_128(print.as_bytes()));
    let source: ExportSource =
        Box::new(move |done, sender| Box::pin(given(files, done, sender, counts)));
    Ok(Export { job, tables, source })
}

async fn given(
    files: Vec<ExportFile>,
    done: HashSet<String>,
    sender: mpsc::Sender<ExportFile>,
    counts: Arc<Counts>,
) -> Result<(), ImportError> {
    let files: Vec<ExportFile> =
        files.into_iter().filter(|f| !done.contains(&f.name.text)).collect();
    files.iter().for_each(|file| counts.downloaded(&file.name.table, file.bytes));
    for file in files {
        if sender.send(file).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Why a job brings no files.
#[derive(Debug)]
pub enum JobError {
    /// It is over: only another one can succeed.
    Over(String),
    /// HQ cannot be asked, or the answer is not one; the same job may succeed later.
    Failed(String),
}

/// Waits until the job is completed; a table whose export failed fails it.
pub async fn completed(hq: &Hq, job: &str) -> Result<ExportJob, JobError> {
    let mut backoff = Backoff::new(LOOK_WAITS);
    let mut told = None;
    loop {
        let now = job::look(hq, job).await.map_err(|e| match e {
            HqError::Refused { status: 404, .. } => JobError::Over(format!(
                "{e}: HQ does not know export job {job:?}; the next import orders a new one"
            )),
            other => JobError::Failed(other.to_string()),
        })?;
        if let Some((name, table)) = now.tables.iter().find(|(_, t)| t.is_failed()) {
            let why =
                table.error.as_deref().filter(|e| !e.is_empty()).unwrap_or("HQ gives no reason");
            return Err(JobError::Over(format!(
                "the export of table {name:?} failed at HQ: {why}; the next import orders a new one"
            )));
        }
        if now.completed {
            return Ok(now);
        }
        let ready = now.tables.values().filter(|t| t.is_done()).count();
        if told != Some(ready) {
            info!("export job {job}: {ready} of {} tables are ready", now.tables.len());
            told = Some(ready);
        }
        sleep(backoff.next_exact()).await;
    }
}

/// The files of a completed job of the tables that `takes` wants, downloaded into `folder` and
/// counted. The error names a file that the job describes in an unknown way.
pub fn download(
    hq: Hq,
    id: &str,
    job: &ExportJob,
    folder: PathBuf,
    takes: impl Fn(&str) -> bool,
    counts: Arc<Counts>,
) -> Result<Export, String> {
    let mut tables: BTreeMap<String, Exported> = BTreeMap::new();
    let mut files = Vec::new();
    for (name, table) in &job.tables {
        if takes(name) {
            tables.entry(name.clone()).or_default().at = table.cursor();
        }
        for file in table.files()?.into_iter().filter(|f| takes(&f.name.table)) {
            let exported = tables.entry(file.name.table.clone()).or_default();
            // A file's time is exact; the cursor counts where there is none.
            let known = if exported.files.is_empty() { None } else { exported.at };
            exported.at = oldest(known, file.name.time);
            exported.files.push(file.name.text.clone());
            files.push(file);
        }
    }
    let id = id.to_owned();
    let downloads = Downloads { hq, job: id.clone(), folder, counts };
    let source: ExportSource =
        Box::new(move |done, sender| Box::pin(downloads.run(files, done, sender)));
    Ok(Export { job: id, tables, source })
}

struct Downloads {
    hq: Hq,
    job: String,
    folder: PathBuf,
    counts: Arc<Counts>,
}

impl Downloads {
    async fn run(
        self,
        files: Vec<RemoteFile>,
        done: HashSet<String>,
        sender: mpsc::Sender<ExportFile>,
    ) -> Result<(), ImportError> {
        let failed = |e: std::io::Error| {
            ImportError::ExportSource(format!("{} cannot be made: {e}", self.folder.display()))
        };
        tokio::fs::create_dir_all(&self.folder).await.map_err(failed)?;
        let wanted = files.into_iter().filter(|f| !done.contains(&f.name.text));
        let mut coming = futures::stream::iter(wanted.map(|file| self.one(file)))
            .buffer_unordered(DOWNLOADS_MAX);
        while let Some(file) = coming.next().await {
            let file = file.map_err(ImportError::ExportSource)?;
            self.counts.downloaded(&file.name.table, file.bytes);
            if sender.send(file).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn one(&self, file: RemoteFile) -> Result<ExportFile, String> {
        let path = self.folder.join(&file.name.text);
        let mut url = file.url;
        let mut addresses = 0;
        while !path.exists() {
            let tell = |bytes: i64| self.counts.received(bytes);
            match fetch(&self.hq.http, &url, &path, &tell).await {
                Ok(()) => break,
                Err(FetchError::Expired(_)) if addresses < ADDRESSES_MAX => {
                    addresses += 1;
                    url = self.address(&file.name.text).await?;
                }
                Err(e) => {
                    return Err(format!(
                        "{} cannot be downloaded: {e}; run the import again to resume it",
                        file.name.text
                    ));
                }
            }
        }
        let bytes =
            tokio::fs::metadata(&path).await.map_err(|e| format!("{}: {e}", path.display()))?.len();
        Ok(ExportFile { name: file.name, path, bytes })
    }

    /// Where the file is now.
    async fn address(&self, name: &str) -> Result<String, String> {
        warn!("the download address of {name} has expired: asking HQ for a new one");
        let job = job::look(&self.hq, &self.job).await.map_err(|e| e.to_string())?;
        let files = job.tables.values().map(|t| t.files()).collect::<Result<Vec<_>, _>>()?;
        files.into_iter().flatten().find(|f| f.name.text == name).map(|f| f.url).ok_or_else(|| {
            format!("the export job has no file {name} any more; --restart-import orders a new one")
        })
    }
}
