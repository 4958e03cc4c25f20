//! A Debian package: the program, its service, its user.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::ReleaseFolder;
use crate::{output, root};

/// What `packaging/` has for the package: the file there, its place, its mode.
const FILES: &[(&str, &str, u32)] = &[
    ("packaging/systemd/eds.service", "usr/lib/systemd/system/eds.service", 0o644),
    ("packaging/systemd/eds.sysusers", "usr/lib/sysusers.d/eds.conf", 0o644),
    ("packaging/prometheus/eds.rules.yml", "usr/share/eds/eds.rules.yml", 0o644),
    ("packaging/grafana/eds.json", "usr/share/eds/grafana.json", 0o644),
    ("packaging/man/eds.1", "usr/share/man/man1/eds.1", 0o644),
    ("packaging/completion/eds.bash", "usr/share/bash-completion/completions/eds", 0o644),
    ("packaging/completion/_eds", "usr/share/zsh/vendor-completions/_eds", 0o644),
    ("packaging/completion/eds.fish", "usr/share/fish/vendor_completions.d/eds.fish", 0o644),
    ("packaging/debian/postinst", "DEBIAN/postinst", 0o755),
    ("packaging/debian/prerm", "DEBIAN/prerm", 0o755),
    ("packaging/debian/postrm", "DEBIAN/postrm", 0o755),
    ("README.md", "usr/share/doc/eds/README.md", 0o644),
    ("docs/server.md", "usr/share/doc/eds/server.md", 0o644),
    ("docs/operations.md", "usr/share/doc/eds/operations.md", 0o644),
    ("docs/alerts.md", "usr/share/doc/eds/alerts.md", 0o644),
    ("docs/install.md", "usr/share/doc/eds/install.md", 0o644),
    ("docs/security.md", "usr/share/doc/eds/security.md", 0o644),
    ("docs/troubleshooting.md", "usr/share/doc/eds/troubleshooting.md", 0o644),
    ("CHANGELOG.md", "usr/share/doc/eds/CHANGELOG.md", 0o644),
    ("LICENSE", "usr/share/doc/eds/copyright", 0o644),
];

/// Builds `eds_<version>_<architecture>.deb` in the folder of the release.
pub fn build(
    release: &ReleaseFolder,
    architecture: &str,
    program: &Path,
) -> Result<PathBuf, String> {
    let to = release.folder.join(format!("eds_{}_{architecture}.deb", release.version));
    let folder = to.with_extension("packing");
    let _ = std::fs::remove_dir_all(&folder);
    let done = fill(&folder, release, architecture, program).and_then(|()| {
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.args(["--root-owner-group", "--build"]).arg(&folder).arg(&to);
        output(dpkg.env("SOURCE_DATE_EPOCH", release.made_at.to_string())).map(drop)
    });
    let _ = std::fs::remove_dir_all(&folder);
    done.map(|()| to)
}

fn fill(
    folder: &Path,
    release: &ReleaseFolder,
    architecture: &str,
    program: &Path,
) -> Result<(), String> {
    for (from, to, mode) in FILES {
        put(&root().join(from), &folder.join(to), *mode)?;
    }
    put(program, &folder.join("usr/bin/eds"), 0o755)?;
    let control = control(release, architecture, glibc_needed(program)?, size_in_kib(folder)?);
    let path = folder.join("DEBIAN/control");
    std::fs::write(&path, control).map_err(|e| format!("{}: {e}", path.display()))
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", from.display());
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    std::fs::copy(from, to).map_err(failed)?;
    super::rootfs::set_mode(to, mode)
}

fn control(release: &ReleaseFolder, architecture: &str, glibc: (u32, u32), kib: u64) -> String {
    format!(
        "Package: eds\nVersion: {}\nArchitecture: {architecture}\nMaintainer: EDS releases \
         <releases@example.com>\nInstalled-Size: {kib}\nDepends: libc6 (>= {}.{}), libgcc-s1, \
         ca-certificates\nSuggests: nats-server\nSection: database\nPriority: \
         optional\nDescription: streams a business system's change events into databases and \
         files\n EDS replicates change events (JSON on NATS JetStream) into a database, a \
         warehouse,\n a bucket or a broker, and loses no change.\n",
        release.version, glibc.0, glibc.1
    )
}

/// The newest version of the C library that the program names.
fn glibc_needed(program: &Path) -> Result<(u32, u32), String> {
    let bytes = std::fs::read(program).map_err(|e| format!("{}: {e}", program.display()))?;
    Ok(glibc_named(&bytes))
}

fn glibc_named(bytes: &[u8]) -> (u32, u32) {
    const MARK: &[u8] = b"GLIBC_";
    let number = |bytes: &[u8]| {
        let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
        let value = std::str::from_utf8(&bytes[..digits]).ok()?.parse::<u32>().ok()?;
        Some((value, digits))
    };
    let version = |at: usize| {
        let rest = &bytes[at + MARK.len()..];
        let (major, digits) = number(rest)?;
        let minor = rest.get(digits + 1..).filter(|_| rest.get(digits) == Some(&b'.'))?;
        Some((major, number(minor)?.0))
    };
    let marks = bytes.windows(MARK.len()).enumerate().filter(|(_, found)| *found == MARK);
    marks.filter_map(|(at, _)| version(at)).max().unwrap_or((2, 17))
}

/// What the files take when they are installed.
fn size_in_kib(folder: &Path) -> Result<u64, String> {
    let text = output(Command::new("du").args(["-sk", "--apparent-size"]).arg(folder))?;
    let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
    first.ok_or_else(|| format!("du printed {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_the_c_library_counts() {
        assert_eq!(glibc_named(b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0"), (2, 34));
        assert_eq!(glibc_named(b"GLIBC_"), (2, 17));
    }
}
