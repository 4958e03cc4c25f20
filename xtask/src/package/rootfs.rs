//! The root file system of the image: the program, the libraries that it loads, certificates, a
//! user. There is no shell and no package manager in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::output;

/// The user that the program runs as, and its group.
pub const USER: u32 = 65_532;
/// Where its data is.
pub const DATA: &str = "var/lib/eds";
/// The certificate authorities of the machine that the image is built on.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What the C library loads by name when it looks up a host.
const LOADED_BY_NAME: [&str; 3] = ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"];
/// Files that the C library reads.
const TEXTS: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0::/:/sbin/nologin\neds:x:65532:65532::/var/lib/eds:/sbin/nologin\n"),
    ("etc/group", "root:x:0:\neds:x:65532:\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    // Whoever runs a container puts its own in this place.
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
];

/// Writes the root file system for `program` to `to`. It belongs to root, its data to [`USER`], so
/// only root can write it.
pub fn write(program: &Path, to: &Path) -> Result<(), String> {
    put(program, to, "usr/bin/eds", 0o755)?;
    for library in libraries(program)? {
        let place = library.strip_prefix("/").unwrap_or(&library).to_string_lossy().into_owned();
        put(&library, to, &place, 0o755)?;
    }
    let authorities = AUTHORITIES.trim_start_matches('/');
    put(Path::new(AUTHORITIES), to, authorities, 0o644)?;
    for (place, text) in TEXTS {
        let path = to.join(place);
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        set_mode(&path, 0o644)?;
    }
    let mounted = ["proc", "sys", "dev"].map(|place| (place, 0o755, 0));
    for (place, mode, owner) in [("tmp", 0o1777, 0), (DATA, 0o700, USER)].into_iter().chain(mounted)
    {
        let path = to.join(place);
        std::fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        set_mode(&path, mode)?;
        set_owner(&path, owner)?;
    }
    Ok(())
}

/// The shared libraries that `program` loads, the loader included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let listed = output(Command::new("ldd").arg(program))?;
    let mut found: Vec<PathBuf> =
        listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect();
    let beside = found.iter().find(|path| path.ends_with("libc.so.6")).and_then(|c| c.parent());
    let by_name = beside.map(|dir| LOADED_BY_NAME.map(|name| dir.join(name))).unwrap_or_default();
    found.extend(by_name.into_iter().filter(|path| path.exists()));
    found.sort();
    found.dedup();
    Ok(found)
}

/// Copies what `from` is or refers to.
fn put(from: &Path, root: &Path, place: &str, mode: u32) -> Result<(), String> {
    let to = root.join(place);
    let failed = |e: std::io::Error| format!("{}: {e}", from.display());
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    std::fs::create_dir_all(root.join("etc")).map_err(failed)?;
    std::fs::copy(from, &to).map_err(failed)?;
    set_mode(&to, mode)
}

/// Sets the mode of a file.
pub fn set_mode(path: &Path, mode: u32) -> Result<(), String> {
    #[cfg(unix)]
    return std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
        .map_err(|e| format!("{}: {e}", path.display()));
    #[cfg(not(unix))]
    Err(format!("{}: mode {mode:o} can be set on Unix only", path.display()))
}

fn set_owner(path: &Path, id: u32) -> Result<(), String> {
    #[cfg(unix)]
    return std::os::unix::fs::chown(path, Some(id), Some(id))
        .map_err(|e| format!("{} cannot be given to user {id}: {e}", path.display()));
    #[cfg(not(unix))]
    Err(format!("{} can be given to user {id} on Unix only", path.display()))
}
