//! Puts a new program in the place of this one, once it has shown itself, and the old one back. A
//! note in the data directory counts how often the new one has been started as a server: until one
//! of its starts comes to a worker that streams, the next start too many goes back. The note is
//! about one file with one content: a program that somebody else has put there is not judged by it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// The note in the data directory.
const NOTE: &str = "update.json";
/// Starts of a new program that come to nothing; at the next one the old program is put back.
const STARTS_MAX: u32 = 3;

/// A new program that is in place, and the old one beside it under the name `<program>.previous`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Swap {
    program: PathBuf,
    previous: PathBuf,
    /// The version of the new program.
    pub version: String,
    /// What the new program's file holds. Notes of earlier versions do not tell; there the version
    /// has to do.
    #[serde(default)]
    sha256: Option<String>,
    /// How often it was started. A note of earlier versions has no number: those put a program in
    /// place before it had shown anything.
    #[serde(default = "too_often")]
    starts: u32,
    #[serde(skip)]
    note: PathBuf,
}

/// What tells a file from another one that takes its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileStamp {
    bytes: u64,
    modified: SystemTime,
}

impl FileStamp {
    /// Of the file that has this name now; `None` where it cannot be asked.
    pub fn of(file: &Path) -> Option<FileStamp> {
        let found = std::fs::metadata(file).ok()?;
        Some(FileStamp { bytes: found.len(), modified: found.modified().ok()? })
    }
}

/// What a start finds.
pub enum Probation {
    /// The program that starts has nothing to show.
    Over,
    /// The note is about a program that is not in its place any more; it is removed.
    Void(Swap),
    /// It has not yet; this start counts.
    Lasts(Swap),
    /// It has failed too often: the old program of that note is in its place again, or not.
    Failed(Swap, std::io::Result<()>),
}

fn too_often() -> u32 {
    STARTS_MAX
}

/// The checksum of what `file` holds.
fn sha256(file: &Path) -> std::io::Result<String> {
    let mut file = File::open(file)?;
    let mut sum = digest::Context::new(&digest::SHA256);
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(HEXLOWER.encode(sum.finish().as_ref())),
            bytes => sum.update(&piece[..bytes]),
        }
    }
}

/// A copy with the same stamp.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::copy(from, to)?;
    let modified = std::fs::metadata(from)?.modified()?;
    // Where a copy cannot be opened, its stamp is of now: it is another file then.
    let _ = File::options().append(true).open(to).map(|copy| copy.set_modified(modified));
    Ok(())
}

/// `eds` → `eds.previous`
fn beside(program: &Path, word: &str) -> PathBuf {
    let mut name = program.file_name().unwrap_or_default().to_owned();
    name.push(word);
    program.with_file_name(name)
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}

/// Makes the names in the directory of `path` survive a power cut, where directories can be synced.
fn sync_names(path: &Path) {
    if let Some(dir) = path.parent().and_then(|dir| File::open(dir).ok()) {
        let _ = dir.sync_all();
    }
}

impl Swap {
    /// Where the new program is until it has shown itself: beside the old one, so that one rename
    /// puts it in place.
    pub fn staging(program: &Path) -> PathBuf {
        beside(program, ".next")
    }

    /// Puts the program at [`Swap::staging`] in the place of `program` and notes in `data_dir` that
    /// it has to show itself as a server. At every moment there is a program in that place, except
    /// on Windows. If `program` is `unproven` itself, or another server has put it there since this
    /// one `began` with what was there, the one before it stays the one to go back to.
    pub fn make(
        program: &Path,
        version: &str,
        data_dir: &Path,
        unproven: Option<&Swap>,
        began: Option<FileStamp>,
    ) -> std::io::Result<Swap> {
        let swap = Swap {
            program: program.to_owned(),
            previous: beside(program, ".previous"),
            version: version.to_owned(),
            sha256: Some(sha256(&Swap::staging(program))?),
            starts: 0,
            note: data_dir.join(NOTE),
        };
        // What another server went on from is what this one began with, too.
        let is_of_others = began.is_some()
            && FileStamp::of(program) != began
            && FileStamp::of(&swap.previous) == began;
        let stays = is_of_others || (unproven.is_some() && swap.previous.exists());
        let unproven = unproven.filter(|_| stays);
        let aside = if stays { beside(program, ".failed") } else { swap.previous.clone() };
        let _ = std::fs::remove_file(&aside);
        if cfg!(windows) {
            // Windows lets a running program be renamed and not be replaced.
            swap.write_note()?;
            std::fs::rename(program, &aside)?;
        } else {
            if !stays {
                std::fs::hard_link(program, &aside).or_else(|_| copy(program, &aside))?;
                sync_names(program);
            }
            // Only now is the previous program the one to go back to.
            swap.write_note()?;
        }
        let swapped = std::fs::rename(Swap::staging(program), program);
        if swapped.is_err() {
            if cfg!(windows) {
                std::fs::rename(&aside, program)?;
            }
            match unproven {
                Some(unproven) => unproven.write_note()?,
                None => swap.remove_note(),
            }
        }
        sync_names(program);
        swapped.map(|()| swap)
    }

    /// Whether some program may have to show itself.
    pub fn is_noted(data_dir: &Path) -> bool {
        data_dir.join(NOTE).exists()
    }

    /// Counts a start of `running`, which has this version, if that is the program in place and has
    /// not shown itself yet. Whoever asks has the server's lock: a start beside a server that runs
    /// says nothing about the program.
    pub fn count_start(data_dir: &Path, running: &Path, version: &str) -> Probation {
        let note = data_dir.join(NOTE);
        let read = std::fs::read(&note).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let Some(read) = read else { return Probation::Over };
        let mut swap = Swap { note, ..read };
        if !swap.is_in_place(version) {
            swap.remove_note();
            return Probation::Void(swap);
        }
        // Another program that is started in this data directory has its own merits.
        if !is_same_file(&swap.program, running) {
            return Probation::Over;
        }
        if swap.starts >= STARTS_MAX {
            let undone = swap.roll_back();
            return Probation::Failed(swap, undone);
        }
        swap.starts += 1;
        // Where nothing can be noted, nothing is counted.
        let _ = swap.write_note();
        Probation::Lasts(swap)
    }

    /// Whether the program that the note is about is still where it was put.
    fn is_in_place(&self, running: &str) -> bool {
        match &self.sha256 {
            Some(noted) => sha256(&self.program).is_ok_and(|found| found == *noted),
            None => self.version.trim_start_matches('v') == running,
        }
    }

    /// The start ends because somebody wants it, before the program could show itself: it does not
    /// count.
    pub fn forget_start(mut self) {
        self.starts = self.starts.saturating_sub(1);
        let _ = self.write_note();
    }

    fn write_note(&self) -> std::io::Result<()> {
        let unfinished = self.note.with_extension("json.new");
        let mut file = File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec(self).map_err(std::io::Error::other)?)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &self.note)?;
        sync_names(&self.note);
        Ok(())
    }

    fn remove_note(&self) {
        let _ = std::fs::remove_file(&self.note);
        sync_names(&self.note);
    }

    /// Puts the old program back. On Windows the new one stays beside it as `<program>.failed`,
    /// because it may be running.
    fn roll_back(&self) -> std::io::Result<()> {
        if cfg!(windows) && self.program.exists() {
            let failed = beside(&self.program, ".failed");
            let _ = std::fs::remove_file(&failed);
            std::fs::rename(&self.program, failed)?;
        }
        std::fs::rename(&self.previous, &self.program)?;
        sync_names(&self.program);
        self.remove_note();
        Ok(())
    }

    /// The new program stays. The old one stays beside it, so that a person can put it back.
    pub fn keep(self) {
        self.remove_note();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with a program in it.
    struct Folder {
        dir: tempfile::TempDir,
        program: PathBuf,
    }

    impl Folder {
        fn new() -> std::io::Result<Folder> {
            let dir = tempfile::tempdir()?;
            let program = dir.path().join("eds");
            std::fs::write(&program, "old")?;
            Ok(Folder { dir, program })
        }

        fn swap(&self, new: &str, unproven: Option<&Swap>) -> std::io::Result<Swap> {
            std::fs::write(Swap::staging(&self.program), new)?;
            let began = FileStamp::of(&self.program);
            Swap::make(&self.program, "2.0.0", self.dir.path(), unproven, began)
        }

        fn start(&self) -> Probation {
            Swap::count_start(self.dir.path(), &self.program, "2.0.0")
        }

        fn lasting(&self) -> Swap {
            let Probation::Lasts(swap) = self.start() else { panic!("it has not shown itself") };
            swap
        }

        fn has(&self) -> std::io::Result<String> {
            std::fs::read_to_string(&self.program)
        }
    }

    #[test]
    fn a_program_that_never_shows_itself_is_replaced_by_the_old_one() -> std::io::Result<()> {
        let folder = Folder::new()?;
        // What was staged is gone: nothing is swapped, and nothing has to be shown.
        let missing = Swap::make(&folder.program, "2.0.0", folder.dir.path(), None, None);
        assert!(missing.is_err() && folder.has()? == "old");
        assert!(matches!(folder.start(), Probation::Over));

        drop(folder.swap("new", None)?);
        for _ in 0..STARTS_MAX {
            assert!(folder.lasting().version == "2.0.0" && folder.has()? == "new");
        }
        assert!(matches!(folder.start(), Probation::Failed(_, Ok(()))) && folder.has()? == "old");
        assert!(matches!(folder.start(), Probation::Over));

        // Ends that somebody wants do not count; one start that streams is enough.
        drop(folder.swap("new", None)?);
        for _ in 0..2 * STARTS_MAX {
            folder.lasting().forget_start();
        }
        folder.lasting().keep();
        assert!(matches!(folder.start(), Probation::Over) && folder.has()? == "new");
        Ok(())
    }

    /// What somebody has put in the place of the program on trial is theirs, and a program that is
    /// started from elsewhere is another one.
    #[test]
    fn a_note_is_about_one_program() -> std::io::Result<()> {
        let folder = Folder::new()?;
        drop(folder.swap("new", None)?);
        let stranger = folder.dir.path().join("stranger");
        std::fs::write(&stranger, "new")?;
        for _ in 0..2 * STARTS_MAX {
            let started = Swap::count_start(folder.dir.path(), &stranger, "2.0.0");
            assert!(matches!(started, Probation::Over));
        }
        drop(folder.lasting());
        std::fs::write(&folder.program, "by hand")?;
        assert!(matches!(folder.start(), Probation::Void(_)));
        assert!(matches!(folder.start(), Probation::Over) && folder.has()? == "by hand");
        Ok(())
    }

    /// An unproven program may be replaced; the one that is gone back to is the proven one.
    #[test]
    fn an_unproven_program_is_never_gone_back_to() -> std::io::Result<()> {
        let folder = Folder::new()?;
        drop(folder.swap("bad", None)?);
        let unproven = folder.lasting();
        drop(folder.swap("worse", Some(&unproven))?);
        assert_eq!(folder.has()?, "worse");
        (0..STARTS_MAX).for_each(|_| drop(folder.lasting()));
        assert!(matches!(folder.start(), Probation::Failed(_, Ok(()))) && folder.has()? == "old");
        Ok(())
    }

    /// Two servers run one program file; the second is updated while the first one's new program
    /// has not shown itself.
    #[test]
    fn what_another_server_has_put_there_is_never_gone_back_to() -> std::io::Result<()> {
        let folder = Folder::new()?;
        let began = FileStamp::of(&folder.program);
        drop(folder.swap("theirs", None)?);
        std::fs::write(Swap::staging(&folder.program), "ours")?;
        drop(Swap::make(&folder.program, "2.0.0", folder.dir.path(), None, began)?);
        (0..STARTS_MAX).for_each(|_| drop(folder.lasting()));
        assert!(matches!(folder.start(), Probation::Failed(_, Ok(()))) && folder.has()? == "old");

        // A person has installed another program since the server began: that is gone back to.
        std::fs::write(beside(&folder.program, ".previous"), "ancient")?;
        let began = FileStamp::of(&folder.program);
        std::fs::write(&folder.program, "installed by hand")?;
        std::fs::write(Swap::staging(&folder.program), "ours")?;
        drop(Swap::make(&folder.program, "2.0.0", folder.dir.path(), None, began)?);
        (0..STARTS_MAX).for_each(|_| drop(folder.lasting()));
        assert!(matches!(folder.start(), Probation::Failed(_, Ok(()))));
        assert_eq!(folder.has()?, "installed by hand");
        Ok(())
    }

    /// Versions before this one swapped first, and removed their note at the end of the trial.
    #[test]
    fn a_trial_of_an_earlier_version_is_undone() -> std::io::Result<()> {
        let folder = Folder::new()?;
        let at = |name: &str| folder.dir.path().join(name).display().to_string();
        std::fs::rename(&folder.program, at("eds.previous"))?;
        std::fs::write(&folder.program, "new")?;
        let note = format!(
            r#"{{"program":{:?},"previous":{:?},"version":"2.0.0"}}"#,
            at("eds"),
            at("eds.previous")
        );
        std::fs::write(folder.dir.path().join(NOTE), &note)?;
        assert!(matches!(folder.start(), Probation::Failed(_, Ok(()))) && folder.has()? == "old");
        // Another version was installed meanwhile.
        std::fs::write(folder.dir.path().join(NOTE), &note)?;
        let other = Swap::count_start(folder.dir.path(), &folder.program, "1.0.0");
        assert!(matches!(other, Probation::Void(_)) && folder.has()? == "old");
        Ok(())
    }
}
