//! Writing a file and giving it its name: nothing is replaced unseen, whatever has the name.

use std::borrow::Cow;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use super::folder::{FileMode, UNFINISHED, create_unfinished};
use crate::change::Change;
use crate::destination::objects::name::Name;
use crate::destination::objects::placing::{Conflict, PartPlacement};

/// Gives a file a second name; fails where the name is taken.
type MakeLink = fn(&Path, &Path) -> io::Result<()>;

/// The content of a file.
pub enum Stored<'a> {
    /// One change.
    Change(&'a Change),
    /// Many changes.
    Part {
        /// The packed file.
        content: &'a [u8],
        /// The batch was tried before: a file of this name comes from that try.
        is_repeat: bool,
    },
}

/// Whether an error of [`MakeLink`] means that the file system has no links, or not for this file:
/// each system says it in words of its own.
pub fn has_no_links(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::Unsupported
            | ErrorKind::PermissionDenied
            | ErrorKind::TooManyLinks
            | ErrorKind::CrossesDevices
    )
}

/// Whether an error is about the name of a file, which the file system does not take: too long, of
/// characters that it does not have, below what is a file, or that of a folder.
pub fn is_of_name(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::AlreadyExists
    )
}

/// How files are written.
#[derive(Clone, Copy)]
pub struct Placer {
    /// The rights of the files; `None`: only their owner reads them.
    pub mode: Option<FileMode>,
    /// How a file gets a second name.
    pub link: MakeLink,
}

impl Placer {
    /// Writes and syncs a file under an unfinished name with this number, then gives it its own.
    /// Returns the error that says that no file can have this name.
    pub fn write(
        &self,
        folder: &Path,
        number: usize,
        name: &Name,
        stored: &Stored<'_>,
    ) -> io::Result<Option<io::Error>> {
        let folder = folder.join(&name.folder);
        let content = match stored {
            Stored::Change(change) => Cow::Owned(change.event.stored().into_bytes()),
            Stored::Part { content, .. } => Cow::Borrowed(*content),
        };
        let unfinished = folder.join(format!("{UNFINISHED}{number}"));
        let mut file = create_unfinished(&unfinished)?;
        file.write_all(&content)?;
        if let Some(mode) = self.mode {
            mode.give_to(&file)?;
        }
        file.sync_all()?;
        drop(file);
        let placed = match stored {
            Stored::Change(change) => self.place(&folder, &unfinished, name, change, &content),
            Stored::Part { is_repeat, .. } => {
                self.place_part(&folder, &unfinished, name, &content, *is_repeat)
            }
        };
        match fs::remove_file(&unfinished) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        match placed {
            Err(e) if is_of_name(&e) => Ok(Some(e)),
            placed => placed.map(|()| None),
        }
    }

    /// Gives the finished file its name.
    fn place(
        &self,
        folder: &Path,
        finished: &Path,
        name: &Name,
        change: &Change,
        content: &[u8],
    ) -> io::Result<()> {
        let wanted = folder.join(name.file());
        if self.named(finished, &wanted)? {
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
        if !self.named(older, &kept)? && fs::read(&kept)? != its_content {
            self.named(older, &folder.join(&conflict.kept_beside))?;
        }
        if conflict.existing_is_older { fs::rename(finished, &wanted) } else { Ok(()) }
    }

    /// The same for a file of many changes.
    fn place_part(
        &self,
        folder: &Path,
        finished: &Path,
        name: &Name,
        content: &[u8],
        is_repeat: bool,
    ) -> io::Result<()> {
        let wanted = folder.join(name.file());
        if self.named(finished, &wanted)? {
            return Ok(());
        }
        match PartPlacement::of(name, content, &fs::read(&wanted)?, is_repeat) {
            PartPlacement::Stored => Ok(()),
            PartPlacement::Replace => fs::rename(finished, &wanted),
            PartPlacement::Beside(other) => self.named(finished, &folder.join(other)).map(drop),
        }
    }

    /// Whether `name` was free and now is a name of `file`. Making a link fails where the name is
    /// taken. Where there are no links, looking first is as good as long as there is one writer,
    /// which the documentation asks for; the file then loses the name that it had.
    fn named(&self, file: &Path, name: &Path) -> io::Result<bool> {
        match (self.link)(file, name) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) if has_no_links(&e) => match fs::symlink_metadata(name) {
                Ok(_) => Ok(false),
                Err(e) if e.kind() == ErrorKind::NotFound => fs::rename(file, name).map(|()| true),
                Err(e) => Err(e),
            },
            Err(e) => Err(e),
        }
    }
}
