//! Files: one per change, or of many changes, in a folder per table. Nothing is overwritten unseen.

mod folder;
mod place;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tracing::warn;

use super::format::Format;
use super::name::Name;
use super::parts::parts;
use crate::change::Batch;
use crate::destination::form::{Answers, FieldError, FormField, encoded_path};
use crate::destination::settings::path_url;
use crate::destination::{Destination, Driver, Failure, Settings, Target};
use crate::validator::Validator;
use folder::{FileMode, UNFINISHED, create_unfinished, make_folder, remove_leftovers, sync};
use place::{Placer, Stored, has_no_links, is_of_name};

/// Files in a directory.
pub const DRIVER: Driver = Driver {
    scheme: "file",
    aliases: &[],
    title: "File",
    description: "Writes each change into a file of its own, in a folder per table.",
    example: "file:///var/eds/export",
    help: "Files are named <table>/<unix seconds>-<primary key>.json and hold the event. Where two \
           changes of a row fall into one\n\
           second, the older one is kept as <unix seconds>-<primary key>-<its mvccTimestamp>.json. \
           Characters of a key that could\n\
           leave the folder (/ \\ : % control characters, a leading dot) are percent-encoded. \
           After a crash a change may be written\n\
           again, under the same name. Two processes must not write to one folder: files \
           have no fence.",
    fields: &[FormField::text(
        DIRECTORY,
        "The directory to write to; its parent has to be writable",
    )
    .required()],
    url_of_form: url,
    parameters: &[
        ("format", "json: a file per change (default); ndjson, parquet: files of many changes"),
        (
            "freshness",
            "how long changes are collected before they are written (ndjson, parquet: 60s)",
        ),
        ("mode", "who may read the files, in octal: 0600 (default), 0640, 0644, …"),
    ],
    accepted: &[],
    secrets: &[],
    read_url: path_url,
    abilities: super::abilities,
    open: |target| Box::pin(open(target)),
};

/// The one field of HQ's form.
const DIRECTORY: &str = "Directory";
/// Threads that write and sync files.
const WRITERS: usize = 8;

/// `file:///directory`, if something can be created there.
fn url(scheme: &str, answers: &Answers) -> Result<String, FieldError> {
    let wrong = |error: &str| FieldError::new(DIRECTORY, error);
    let directory = Path::new(answers.get(DIRECTORY));
    if !directory.is_absolute() {
        return Err(wrong("it is not an absolute path"));
    }
    if directory.components().any(|part| part == Component::ParentDir) {
        return Err(wrong("it must not go up (..)"));
    }
    let Some(parent) = directory.parent() else { return Err(wrong("it must not be /")) };
    if !directory.is_dir() && !is_writable(parent) {
        return Err(wrong(&format!("{} cannot be written to", parent.display())));
    }
    Ok(format!("{scheme}://{}", encoded_path(answers.get(DIRECTORY))))
}

/// Whether a file can be created in `dir`.
fn is_writable(dir: &Path) -> bool {
    let probe = dir.join(format!(".eds-probe-{}", std::process::id()));
    let created = create_unfinished(&probe).is_ok();
    let _ = fs::remove_file(probe);
    created
}

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let folder = PathBuf::from(&target.settings.path);
    let shown = folder.display().to_string();
    if folder.parent().is_none() {
        return Err(Failure::misconfigured(
            "the folder for files must not be /: choose one below it",
        ));
    }
    let mode = file_mode(&target.settings)?;
    make_folder(&folder, mode).and_then(|()| probe(&folder)).map_err(|e| {
        Failure::misconfigured(format!("the folder {shown} cannot be written to: {e}"))
    })?;
    Ok(Box::new(Files {
        consumer: target.consumer.clone(),
        folder,
        format: Format::read(&target.settings)?,
        placer: Placer { mode, link: |file, name| fs::hard_link(file, name) },
        swept: HashSet::new(),
        rules: target.rules.clone(),
    }))
}

/// The option `mode`.
fn file_mode(settings: &Settings) -> Result<Option<FileMode>, Failure> {
    let Some(text) = settings.parameter("mode") else { return Ok(None) };
    FileMode::read(text).map(Some).ok_or_else(|| {
        Failure::misconfigured(format!(
            "mode={text:?} is no mode of a file: write it in octal, as 0640; the owner has to read \
             and write, and nobody executes (on Windows the rights of the folder hold)"
        ))
    })
}

/// Whether a file can be created in `folder`, and get its name.
fn probe(folder: &Path) -> io::Result<()> {
    let [probe, other] = ["probe", "probe-link"].map(|n| folder.join(format!("{UNFINISHED}{n}")));
    create_unfinished(&probe)?;
    let _ = fs::remove_file(&other);
    let linked = fs::hard_link(&probe, &other);
    let _ = fs::remove_file(&other);
    fs::remove_file(probe)?;
    match linked {
        Err(e) if has_no_links(&e) => {
            warn!(
                "the file system of {} makes no hard links ({e}): a file gets its name by \
                 renaming, once no other has the name",
                folder.display()
            );
            Ok(())
        }
        other => other,
    }
}

#[derive(Clone)]
struct Files {
    /// Tells the files of several servers apart.
    consumer: String,
    folder: PathBuf,
    format: Format,
    placer: Placer,
    /// Folders from which unfinished files of an earlier process were removed.
    swept: HashSet<String>,
    /// The user's rules may say where a change goes.
    rules: Option<Arc<Validator>>,
}

#[async_trait]
impl Destination for Files {
    /// A folder may be reached through links.
    fn identity(&self) -> Option<String> {
        let folder = self.folder.canonicalize().ok()?;
        Some(format!("file {} {}", folder.display(), self.format.content_type()))
    }

    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let mut files = Files { swept: std::mem::take(&mut self.swept), ..self.clone() };
        let batch = batch.clone();
        let written = tokio::task::spawn_blocking(move || {
            let written = files.write_batch(&batch);
            (files.swept, written)
        });
        let (swept, written) = written.await.map_err(|e| Failure::unavailable(e.to_string()))?;
        self.swept = swept;
        written
    }
}

/// A file to be written, and the change that it is of, by its index in the batch.
type NamedFile<'a> = (Option<u32>, Name, Stored<'a>);

/// Changes that cannot be stored, by their index in the batch, each with the reason.
type Culprits = Vec<(u32, String)>;

impl Files {
    fn write_batch(&mut self, batch: &Batch) -> Result<(), Failure> {
        let written = if self.format == Format::Json {
            let named = batch.ordered().map(|(index, change)| {
                (Some(index), Name::of(change, self.rules.as_deref()), Stored::Change(change))
            });
            self.write_all(named.collect())
        } else {
            let parts = parts(batch, self.format, &self.consumer)?;
            let is_repeat = batch.unconfirmed_through.is_some();
            let named = parts.iter().map(|part| {
                (None, part.name.clone(), Stored::Part { content: &part.content, is_repeat })
            });
            self.write_all(named.collect())
        };
        match written {
            Ok(culprits) if culprits.is_empty() => Ok(()),
            Ok(culprits) => Err(Failure::rejected(culprits)),
            Err(e) => Err(Failure::unavailable(format!(
                "files cannot be written to {}: {e}",
                self.folder.display()
            ))),
        }
    }

    /// Writes and syncs all files, then the folders that list them. Returns the changes whose names
    /// the file system refuses; all others are written.
    fn write_all(&mut self, files: Vec<NamedFile<'_>>) -> io::Result<Culprits> {
        let mut in_folders: BTreeMap<String, Vec<NamedFile<'_>>> = BTreeMap::new();
        for file in files {
            in_folders.entry(file.1.folder.clone()).or_default().push(file);
        }
        let mut culprits = Vec::new();
        let mut queues: Vec<Vec<(usize, NamedFile<'_>)>> =
            (0..WRITERS).map(|_| Vec::new()).collect();
        let (mut folders, mut index) = (Vec::new(), 0);
        for (name, files) in in_folders {
            if let Some(e) = self.sweep(&name)? {
                let refused = files.iter().map(|(change, ..)| self.refused(*change, &e));
                culprits.extend(refused.collect::<io::Result<Culprits>>()?);
                continue;
            }
            folders.push(self.folder.join(&name));
            for file in files {
                // Files of one name stay in one queue, in their order.
                let text = format!("{name}/{}", file.1.file());
                let queue = xxhash_rust::xxh3::xxh3_64(text.as_bytes()) as usize % WRITERS;
                queues[queue].push((index, file));
                index += 1;
            }
        }
        let files = &*self;
        let written: io::Result<Vec<Culprits>> = std::thread::scope(|scope| {
            let writers: Vec<_> =
                queues.iter().map(|queue| scope.spawn(|| files.write_queue(queue))).collect();
            let panicked = |_| Err(io::Error::other("a writer panicked"));
            writers.into_iter().map(|w| w.join().unwrap_or_else(panicked)).collect()
        });
        culprits.extend(written?.into_iter().flatten());
        culprits.sort_unstable_by_key(|(index, _)| *index);
        folders.iter().try_for_each(|folder| sync(folder))?;
        Ok(culprits)
    }

    /// Writes files one after the other. Each change gets an unfinished file of its own number.
    fn write_queue(&self, queue: &[(usize, NamedFile<'_>)]) -> io::Result<Culprits> {
        let mut culprits = Vec::new();
        for (number, (change, name, stored)) in queue {
            if let Some(e) = self.placer.write(&self.folder, *number, name, stored)? {
                culprits.push(self.refused(*change, &e)?);
            }
        }
        Ok(culprits)
    }

    /// The first time that this process uses a folder: makes it, and removes what an earlier one
    /// left unfinished. Returns the error that says that no folder can have this name.
    fn sweep(&mut self, name: &str) -> io::Result<Option<io::Error>> {
        if self.swept.contains(name) {
            return Ok(None);
        }
        let path = self.folder.join(name);
        match make_folder(&path, self.placer.mode) {
            Err(e) if is_of_name(&e) => return Ok(Some(e)),
            made => made?,
        }
        remove_leftovers(&path)?;
        // An earlier process may have made any folder on the way, and crashed before it synced.
        let above = path.ancestors().skip(1);
        above.take_while(|above| above.starts_with(&self.folder)).try_for_each(sync)?;
        self.swept.insert(name.to_owned());
        Ok(None)
    }

    /// The change as one that cannot be stored, because the file system refuses its name; an error
    /// where that is about more than one change.
    fn refused(&self, change: Option<u32>, e: &io::Error) -> io::Result<(u32, String)> {
        // The place itself may have become a file: that is about all of them.
        match change.filter(|_| self.folder.is_dir()) {
            Some(index) => {
                let why = format!(
                    "the file system does not take the name of its file ({}): shorten or correct \
                     the path in the rules, or the key",
                    e.kind()
                );
                Ok((index, why))
            }
            None => Err(io::Error::new(e.kind(), e.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::change::{Change, Decoder, Position};
    use crate::destination::form::url_of;

    fn change(id: &str, key: &str, timestamp: i64, mvcc: &str) -> Change {
        let text = format!(
            r#"{{"operation":"UPDATE","id":"{id}","table":"order","key":["{key}"],"after":{{}},"timestamp":{timestamp},"mvccTimestamp":"{mvcc}"}}"#
        );
        let event = Decoder::default().decode(text.into()).unwrap_or_else(|e| panic!("{e}"));
        let key = event.record_key().unwrap_or_default().into();
        Change {
            event,
            subject: "".into(),
            position: Position::default(),
            schema: None,
            row: Box::default(),
            key,
        }
    }

    fn files(folder: &Path, placer: Placer) -> Files {
        Files {
            consumer: String::new(),
            folder: folder.into(),
            format: Format::Json,
            placer,
            swept: HashSet::new(),
            rules: None,
        }
    }

    fn named<'a>(changes: &'a [Change], order: &[usize]) -> Vec<NamedFile<'a>> {
        let file = |i: &usize| {
            (Some(*i as u32), Name::of(&changes[*i], None), Stored::Change(&changes[*i]))
        };
        order.iter().map(file).collect()
    }

    #[test]
    fn two_changes_within_a_second_are_both_kept_and_repeats_change_nothing() -> io::Result<()> {
        both_are_kept(Placer { mode: None, link: |file, name| fs::hard_link(file, name) })?;
        // As FAT answers, and as systems do that do not know the call.
        both_are_kept(Placer { mode: None, link: |_, _| Err(ErrorKind::PermissionDenied.into()) })?;
        both_are_kept(Placer { mode: None, link: |_, _| Err(ErrorKind::Unsupported.into()) })
    }

    fn both_are_kept(placer: Placer) -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let changes = [
            change("e1", "k", 1_000_100, "1720732611708587501.0"),
            change("e2", "k", 1_000_200, "1720732611708587502.0"),
            change("e3", "../x", 1_000_200, "1"),
        ];
        for order in [[0, 1, 2], [0, 1, 2], [1, 0, 2]] {
            assert_eq!(files(dir.path(), placer).write_all(named(&changes, &order))?, []);
            let mut names: Vec<_> = fs::read_dir(dir.path().join("order"))?
                .map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()))
                .collect::<Result<_, _>>()?;
            names.sort();
            assert_eq!(
                names,
                ["1000-%2E.%2Fx.json", "1000-k-1720732611708587501.0.json", "1000-k.json"]
            );
            let newest = fs::read_to_string(dir.path().join("order/1000-k.json"))?;
            assert_eq!(newest, changes[1].event.stored());
        }
        Ok(())
    }

    #[test]
    fn a_name_that_is_refused_is_no_outage() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let changes = ["e1", "e2", "e3", "e4", "e5"].map(|id| change(id, id, 1_000_100, "1"));
        let placer = Placer { mode: None, link: |file, name| fs::hard_link(file, name) };
        let mut all = named(&changes, &[0, 1, 2, 3, 4]);
        all[1].1 = Name::new("order".into(), "n".repeat(300), ".json");
        all[2].1 = Name::new("f".repeat(300), "n".into(), ".json");
        // Below a file, and in the place of a folder.
        fs::write(dir.path().join("file"), "")?;
        fs::create_dir_all(dir.path().join("order/folder.json"))?;
        all[3].1 = Name::new("file/below".into(), "n".into(), ".json");
        all[4].1 = Name::new("order".into(), "folder".into(), ".json");
        let culprits = files(dir.path(), placer).write_all(all)?;
        let found: Vec<u32> = culprits.iter().map(|(index, _)| *index).collect();
        assert_eq!(found, [1, 2, 3, 4], "{culprits:?}");
        assert!(dir.path().join("order/1000-e1.json").is_file());
        // Where the whole place is one that nothing can be written below, all are to be kept.
        let gone = dir.path().join("file");
        assert!(files(&gone, placer).write_all(named(&changes, &[0])).is_err());
        Ok(())
    }

    #[test]
    fn a_directory_is_one_that_can_be_written_to() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let url = |place: &str| url_of(&DRIVER, &[("Directory".to_owned(), place.into())].into());
        let good = dir.path().join("a b");
        assert_eq!(
            url(&good.to_string_lossy()),
            Ok(format!("file://{}/a%20b", dir.path().display()))
        );
        for wrong in ["/", "relative", "/no/such/parent", "/tmp/../etc"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }
}
