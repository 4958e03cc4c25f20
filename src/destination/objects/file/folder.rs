//! Folders and files as they are made: with the rights that the user wants, synced, and without
//! following what somebody else has put in their place.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::private;

/// Begins the name of an unfinished file; removed when its folder is used next.
pub const UNFINISHED: &str = ".eds-unfinished-";

/// The rights of files, and so of the folders that are made for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileMode(u32);

impl FileMode {
    /// Of octal digits, as in `0640`. `None` where these are not rights that files of ours can
    /// have: the owner reads and writes, nobody executes.
    pub fn read(text: &str) -> Option<FileMode> {
        let is_octal = cfg!(unix) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777)?;
        (mode & 0o600 == 0o600 && mode & 0o111 == 0).then_some(FileMode(mode))
    }

    /// Gives a file these rights, whatever the process's own mask says.
    pub fn give_to(self, file: &File) -> io::Result<()> {
        set_mode(self.0, |permissions| file.set_permissions(permissions))
    }

    /// The same for a folder, which whoever may read may enter.
    fn give_to_folder(self, folder: &Path) -> io::Result<()> {
        let enter = (self.0 & 0o444) >> 2;
        set_mode(self.0 | enter, |permissions| fs::set_permissions(folder, permissions))
    }
}

#[cfg(unix)]
fn set_mode(mode: u32, set: impl FnOnce(fs::Permissions) -> io::Result<()>) -> io::Result<()> {
    set(std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// Nothing: no mode is read where there are none.
#[cfg(not(unix))]
fn set_mode(_mode: u32, _set: impl FnOnce(fs::Permissions) -> io::Result<()>) -> io::Result<()> {
    Ok(())
}

/// Makes a folder and those above it that are missing, and syncs the ones that list them.
pub fn make_folder(folder: &Path, mode: Option<FileMode>) -> io::Result<()> {
    if folder.is_dir() || folder.as_os_str().is_empty() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folder(parent, mode)?;
    }
    match fs::create_dir(folder) {
        // Another process may have been faster.
        Err(e) if e.kind() == ErrorKind::AlreadyExists && folder.is_dir() => return Ok(()),
        made => made?,
    }
    if let Some(mode) = mode {
        mode.give_to_folder(folder)?;
    }
    match folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync_if_allowed(parent),
        None => sync_if_allowed(Path::new(".")),
    }
}

/// Syncs a folder that may be somebody else's: one that we may write to but not read cannot be
/// opened for it.
fn sync_if_allowed(folder: &Path) -> io::Result<()> {
    match sync(folder) {
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

/// Syncs a folder, as far as the system can.
pub fn sync(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Removes what an earlier process has left unfinished in a folder.
pub fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Creates an unfinished file that only its owner reads. What has the name already is removed: a
/// link is not followed, because anybody may have put it there.
pub fn create_unfinished(path: &Path) -> io::Result<File> {
    match private::create_new(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            private::create_new(path)
        }
        created => created,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn rights_are_those_of_the_option() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (folder, path) = (dir.path().join("a/b"), dir.path().join("a/b/file"));
        for (text, expected) in [
            ("0640", Some((0o640, 0o750))),
            ("600", Some((0o600, 0o700))),
            ("0666", Some((0o666, 0o777))),
            ("0440", None),
            ("0755", None),
            ("1640", None),
            ("+640", None),
            ("0x1f", None),
            ("648", None),
            ("", None),
        ] {
            let mode = FileMode::read(text);
            assert_eq!(mode.is_some(), expected.is_some(), "{text}");
            let Some((of_file, of_folder)) = expected else { continue };
            make_folder(&folder, mode)?;
            mode.map_or(Ok(()), |mode| mode.give_to(&create_unfinished(&path)?))?;
            for (made, rights) in [(&path, of_file), (&folder, of_folder)] {
                let found = fs::metadata(made)?.permissions().mode() & 0o777;
                assert_eq!(found, rights, "{text} {}", made.display());
            }
            fs::remove_dir_all(dir.path().join("a"))?;
        }
        Ok(())
    }

    #[test]
    fn an_unfinished_file_follows_no_link() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (victim, planted) = (dir.path().join("victim"), dir.path().join("planted"));
        fs::write(&victim, "precious")?;
        symlink(&victim, &planted)?;
        io::Write::write_all(&mut create_unfinished(&planted)?, b"an event")?;
        assert_eq!(fs::read_to_string(&victim)?, "precious");
        assert!(!fs::symlink_metadata(&planted)?.is_symlink());
        assert_eq!(fs::read_to_string(&planted)?, "an event");
        Ok(())
    }
}
