//! Files: one per change, or of many changes, in a folder per table. Nothing is overwritten unseen.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::format::Format;
use super::name::Name;
use super::parts::parts;
use super::placing::{Conflict, PartPlacement};
use crate::change::{Batch, Change};
use crate::destination::form::{Answers, FieldError, FormField, encoded_path};
use crate::destination::settings::path_url;
use crate::destination::{Destination, Driver, Failure, Target};
use crate::private;
use crate::validator::Validator;

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
    ],
    read_url: path_url,
    abilities: super::abilities,
    open: |target| Box::pin(open(target)),
};

/// The one field of HQ's form.
const DIRECTORY: &str = "Directory";
/// Threads that write and sync files.
const WRITERS: usize = 8;
/// Begins the name of an unfinished file; removed when its folder is used next.
const UNFINISHED: &str = ".eds-unfinished-";

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
    let created = File::create(&probe).is_ok();
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
    let created = fs::create_dir_all(&folder).and_then(|()| {
        let probe = folder.join(format!("{UNFINISHED}probe"));
        File::create(&probe)?;
        fs::remove_file(probe)
    });
    created.map_err(|e| {
        Failure::misconfigured(format!("the folder {shown} cannot be written to: {e}"))
    })?;
    Ok(Box::new(Files {
        consumer: target.consumer.clone(),
        folder,
        format: Format::read(&target.settings)?,
        swept: HashSet::new(),
        rules: target.rules.clone(),
    }))
}

#[derive(Clone)]
struct Files {
    /// Tells the files of several servers apart.
    consumer: String,
    folder: PathBuf,
    format: Format,
    /// Folders from which unfinished files of an earlier process were removed.
    swept: HashSet<String>,
    /// The user's rules may say where a change goes.
    rules: Option<Arc<Validator>>,
}

#[async_trait]
impl Destination for Files {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let mut files = Files { swept: std::mem::take(&mut self.swept), ..self.clone() };
        let batch = batch.clone();
        let written = tokio::task::spawn_blocking(move || {
            files.write_batch(&batch)?;
            Ok::<_, Failure>(files.swept)
        });
        self.swept = written.await.map_err(|e| Failure::unavailable(e.to_string()))??;
        Ok(())
    }
}

impl Files {
    fn write_batch(&mut self, batch: &Batch) -> Result<(), Failure> {
        let written = if self.format == Format::Json {
            let named = batch.ordered().map(|(_, change)| {
                (Name::of(change, self.rules.as_deref()), Stored::Change(change))
            });
            write_all(&self.folder, named.collect(), &mut self.swept)
        } else {
            let parts = parts(batch, self.format, &self.consumer)?;
            let is_repeat = batch.unconfirmed_through.is_some();
            let named = parts.iter().map(|part| {
                (part.name.clone(), Stored::Part { content: &part.content, is_repeat })
            });
            write_all(&self.folder, named.collect(), &mut self.swept)
        };
        written.map_err(|e| {
            Failure::unavailable(format!(
                "files cannot be written to {}: {e}",
                self.folder.display()
            ))
        })
    }
}

/// The content of a file.
enum Stored<'a> {
    Change(&'a Change),
    /// Many changes. If the batch was tried before, a file of this name comes from that try.
    Part {
        content: &'a [u8],
        is_repeat: bool,
    },
}

/// Writes and syncs all files, then the folders that list them.
fn write_all(
    folder: &Path,
    files: Vec<(Name, Stored<'_>)>,
    swept: &mut HashSet<String>,
) -> io::Result<()> {
    let mut queues: Vec<Vec<(usize, Name, Stored<'_>)>> =
        (0..WRITERS).map(|_| Vec::new()).collect();
    let mut folders = BTreeSet::new();
    for (index, (name, stored)) in files.into_iter().enumerate() {
        // Changes of one name stay in one queue, in their order.
        let queue =
            xxhash_rust::xxh3::xxh3_64(format!("{}/{}", name.folder, name.file()).as_bytes())
                as usize
                % WRITERS;
        folders.insert(name.folder.clone());
        queues[queue].push((index, name, stored));
    }
    for name in &folders {
        let path = folder.join(name);
        if swept.insert(name.clone()) {
            fs::create_dir_all(&path)?;
            remove_leftovers(&path)?;
            // Every folder on the way may be new.
            path.ancestors()
                .skip(1)
                .take_while(|above| above.starts_with(folder))
                .try_for_each(sync)?;
        }
    }
    std::thread::scope(|scope| {
        let writers: Vec<_> = queues
            .iter()
            .map(|queue| {
                scope.spawn(move || {
                    queue
                        .iter()
                        .try_for_each(|(index, name, stored)| write(folder, *index, name, stored))
                })
            })
            .collect();
        writers.into_iter().try_for_each(|w| {
            w.join().unwrap_or_else(|_| Err(io::Error::other("a writer panicked")))
        })
    })?;
    folders.iter().try_for_each(|name| sync(&folder.join(name)))
}

fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Syncs a folder, as far as the system can.
fn sync(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn write(folder: &Path, index: usize, name: &Name, stored: &Stored<'_>) -> io::Result<()> {
    let folder = folder.join(&name.folder);
    let content = match stored {
        Stored::Change(change) => Cow::Owned(change.event.stored().into_bytes()),
        Stored::Part { content, .. } => Cow::Borrowed(*content),
    };
    let unfinished = folder.join(format!("{UNFINISHED}{index}"));
    let mut file = private::options().write(true).create(true).truncate(true).open(&unfinished)?;
    file.write_all(&content)?;
    file.sync_all()?;
    drop(file);
    let placed = match stored {
        Stored::Change(change) => place(&folder, &unfinished, name, change, &content),
        Stored::Part { is_repeat, .. } => {
            place_part(&folder, &unfinished, name, &content, *is_repeat)
        }
    };
    match fs::remove_file(&unfinished) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    placed
}

/// Gives the finished file its name. Linking fails where the name is taken, so nothing is replaced
/// unseen.
fn place(
    folder: &Path,
    finished: &Path,
    name: &Name,
    change: &Change,
    content: &[u8],
) -> io::Result<()> {
    let wanted = folder.join(name.file());
    if linked(finished, &wanted)? {
        return Ok(());
    }
    let existing = fs::read(&wanted)?;
    let Some(conflict) = Conflict::of(name, &change.event, content, &existing) else {
        return Ok(());
    };
    let (older, its_content) = if conflict.existing_is_older {
        (wanted.as_path(), existing.as_slice())
    } else {
        (finished, content)
    };
    let kept = folder.join(&conflict.kept);
    if !linked(older, &kept)? && fs::read(&kept)? != its_content {
        linked(older, &folder.join(&conflict.kept_beside))?;
    }
    if conflict.existing_is_older { fs::rename(finished, &wanted) } else { Ok(()) }
}

/// The same for a file of many changes.
fn place_part(
    folder: &Path,
    finished: &Path,
    name: &Name,
    content: &[u8],
    is_repeat: bool,
) -> io::Result<()> {
    let wanted = folder.join(name.file());
    if linked(finished, &wanted)? {
        return Ok(());
    }
    match PartPlacement::of(name, content, &fs::read(&wanted)?, is_repeat) {
        PartPlacement::Stored => Ok(()),
        PartPlacement::Replace => fs::rename(finished, &wanted),
        PartPlacement::Beside(other) => linked(finished, &folder.join(other)).map(drop),
    }
}

/// Whether `name` was free and now is another name of `file`.
fn linked(file: &Path, name: &Path) -> io::Result<bool> {
    match fs::hard_link(file, name) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Decoder, Position};
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

    #[test]
    fn two_changes_within_a_second_are_both_kept_and_repeats_change_nothing() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let changes = [
            change("e1", "k", 1_000_100, "1720732611708587501.0"),
            change("e2", "k", 1_000_200, "1720732611708587502.0"),
            change("e3", "../x", 1_000_200, "1"),
        ];
        for order in [[0, 1, 2], [0, 1, 2], [1, 0, 2]] {
            let again = order
                .iter()
                .map(|i| (Name::of(&changes[*i], None), Stored::Change(&changes[*i])))
                .collect();
            write_all(dir.path(), again, &mut HashSet::new())?;
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
