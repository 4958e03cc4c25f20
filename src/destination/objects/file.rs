//! Files: one per change, or of many changes, in a folder per table. Nothing is overwritten unseen.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::ABILITIES;
use super::name::{Name, older};
use super::parts::{Format, parts};
use crate::change::{Batch, Change};
use crate::destination::{Destination, Driver, Failure, Target};
use crate::private;
use crate::validator::Validator;

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
    fields: &crate::destination::form::DIRECTORY,
    parameters: &[
        ("format", "json: a file per change (default); ndjson, parquet: files of many changes"),
        (
            "freshness",
            "how long changes are collected before they are written (ndjson, parquet: 60s)",
        ),
    ],
    abilities: ABILITIES,
    open: |target| Box::pin(open(target)),
};

/// Threads that write and sync files.
const WRITERS: usize = 8;
/// What an unfinished file is called; removed when its folder is used next.
const UNFINISHED: &str = ".eds-unfinished-";

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let folder = PathBuf::from(&target.settings.path);
    let shown = folder.display().to_string();
    if folder.parent().is_none() {
        return Err(Failure::misconfigured(
            "the folder for files must not be /: choose one below it",
        ));
    }
    let made = fs::create_dir_all(&folder).and_then(|()| {
        let probe = folder.join(format!("{UNFINISHED}probe"));
        File::create(&probe)?;
        fs::remove_file(probe)
    });
    made.map_err(|e| {
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

struct Files {
    consumer: String,
    folder: PathBuf,
    format: Format,
    /// Folders of tables in which nothing unfinished is left.
    swept: HashSet<String>,
    /// They may say where a change goes.
    rules: Option<Arc<Validator>>,
}

#[async_trait]
impl Destination for Files {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let (folder, format, batch, rules, consumer) = (
            self.folder.clone(),
            self.format,
            batch.clone(),
            self.rules.clone(),
            self.consumer.clone(),
        );
        let mut swept = std::mem::take(&mut self.swept);
        let done = tokio::task::spawn_blocking(move || {
            let written = match format {
                Format::Json => write_all(
                    &folder,
                    batch
                        .ordered()
                        .map(|(_, change)| {
                            (Name::of(change, rules.as_deref()), Stored::Change(change))
                        })
                        .collect(),
                    &mut swept,
                ),
                _ => {
                    let parts = parts(&batch, format, &consumer)?;
                    let is_repeat = batch.unconfirmed_through.is_some();
                    write_all(
                        &folder,
                        parts
                            .iter()
                            .map(|part| {
                                (
                                    part.name.clone(),
                                    Stored::Part { content: &part.content, is_repeat },
                                )
                            })
                            .collect(),
                        &mut swept,
                    )
                }
            };
            written.map_err(|e| {
                Failure::unavailable(format!(
                    "files cannot be written to {}: {e}",
                    folder.display()
                ))
            })?;
            Ok(swept)
        });
        self.swept = done.await.map_err(|e| Failure::unavailable(e.to_string()))??;
        Ok(())
    }
}

/// What a file holds.
enum Stored<'a> {
    Change(&'a Change),
    /// Many changes; of a batch that was tried before, a file of this name is a piece of that try.
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
    let mut lanes: Vec<Vec<(usize, Name, Stored<'_>)>> = (0..WRITERS).map(|_| Vec::new()).collect();
    let mut folders = BTreeSet::new();
    for (index, (name, stored)) in files.into_iter().enumerate() {
        // Changes of one name stay in one lane, in their order.
        let lane = xxhash_rust::xxh3::xxh3_64(format!("{}/{}", name.folder, name.file()).as_bytes())
            as usize
            % WRITERS;
        folders.insert(name.folder.clone());
        lanes[lane].push((index, name, stored));
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
        let writers: Vec<_> = lanes
            .iter()
            .map(|lane| {
                scope.spawn(move || {
                    lane.iter()
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

/// A folder is synced as a file is, where the system can.
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
    let there = fs::read(&wanted)?;
    if there == content {
        return Ok(());
    }
    let (older_is_there, version) = older(&there, &change.event);
    let (older, its_content) =
        if older_is_there { (wanted.as_path(), there.as_slice()) } else { (finished, content) };
    let kept = folder.join(name.of_older(&version));
    if !linked(older, &kept)? && fs::read(&kept)? != its_content {
        linked(older, &folder.join(name.of_another_older(&version, its_content)))?;
    }
    if older_is_there { fs::rename(finished, &wanted) } else { Ok(()) }
}

/// The same for a file of many changes: what an earlier try left under its name is replaced, what
/// others left is kept.
fn place_part(
    folder: &Path,
    finished: &Path,
    name: &Name,
    content: &[u8],
    is_repeat: bool,
) -> io::Result<()> {
    let wanted = folder.join(name.file());
    match () {
        () if linked(finished, &wanted)? || fs::read(&wanted)? == content => Ok(()),
        () if is_repeat => fs::rename(finished, &wanted),
        () => linked(finished, &folder.join(name.of_content(content))).map(drop),
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
}
