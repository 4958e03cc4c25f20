//! Releases of EDS: downloaded, verified by their signature, unpacked, and swapped in.

mod swap;

use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pgp::composed::{Deserializable, DetachedSignature, SignedPublicKey};
use pgp::types::KeyDetails;

use crate::http::Http;
pub use swap::Swap;

/// The OpenPGP key that releases are signed with, armored. Whoever publishes releases of their own
/// replaces the file.
pub const PUBLIC_KEY: &str = include_str!("../../release-key.asc");
/// The repository of Cargo.toml: by default releases come from there.
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");

/// The most bytes of an archive, of the program in it, and of its signature.
const ARCHIVE_BYTES_MAX: usize = 256 << 20;
const PROGRAM_BYTES_MAX: u64 = 512 << 20;
const SIGNATURE_BYTES_MAX: usize = 64 << 10;
/// How long a new program may take to say its version.
const VERSION_WAIT_MAX: Duration = Duration::from_secs(10);

/// The name of the program in an archive.
const PROGRAM: &str = if cfg!(windows) { "eds.exe" } else { "eds" };

/// Where releases come from, and the key that has to have signed them.
#[derive(Clone)]
pub struct ReleaseSource {
    http: Http,
    /// The page under which `download/v<version>/` is.
    url: String,
    key: String,
}

/// The name of the archive for this machine: `eds_Linux_x86_64.tar.gz`.
pub fn archive_name() -> String {
    let os = match std::env::consts::OS {
        "linux" => "Linux",
        "macos" => "Darwin",
        "windows" => "Windows",
        other => other,
    };
    let arch = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        other => other,
    };
    format!("eds_{os}_{arch}.tar.gz")
}

/// Whether a release can have this version. It becomes a part of a URL, so it must not hold `/`.
fn is_version(version: &str) -> bool {
    !version.is_empty()
        && version.len() <= 64
        && version.starts_with(|c: char| c.is_ascii_digit())
        && version.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
}

impl ReleaseSource {
    /// `url`: the page under which `download/v<version>/` is, by default the repository's releases.
    /// `key`: armored, by default [`PUBLIC_KEY`].
    pub fn new(
        http: Http,
        url: Option<&str>,
        key: Option<String>,
    ) -> Result<ReleaseSource, String> {
        let default = Some(REPOSITORY)
            .filter(|page| !page.is_empty())
            .map(|page| format!("{}/releases", page.trim_end_matches('/')));
        let url = url
            .map(str::to_owned)
            .or(default)
            .ok_or("this build names no place for releases: give it with --release-url")?;
        Ok(ReleaseSource {
            http,
            url: url.trim_end_matches('/').to_owned(),
            key: key.unwrap_or_else(|| PUBLIC_KEY.to_owned()),
        })
    }

    /// Downloads the release of `version`, with or without a leading `v`, verifies its signature,
    /// and writes its program to `to`, ready to run. After an error there is nothing at `to`.
    pub async fn fetch(&self, version: &str, to: &Path) -> Result<(), String> {
        let version = version.trim_start_matches('v');
        if !is_version(version) {
            return Err(format!("{version:?} is not a version such as 1.2.3"));
        }
        let url = format!("{}/download/v{version}/{}", self.url, archive_name());
        let signature = self.http.download(&format!("{url}.asc"), SIGNATURE_BYTES_MAX).await?;
        let archive = self.http.download(&url, ARCHIVE_BYTES_MAX).await?;
        let (key, to) = (self.key.clone(), to.to_owned());
        let unpacked = tokio::task::spawn_blocking(move || {
            verify(&key, &signature, &archive)
                .map_err(|why| format!("the release at {url} is not genuine: {why}"))?;
            unpack(&archive, &to).map_err(|why| format!("the release at {url}: {why}"))
        });
        unpacked.await.map_err(|e| e.to_string())?
    }
}

/// Whether the owner of `key` signed `content`.
fn verify(key: &str, signature: &[u8], content: &[u8]) -> Result<(), String> {
    let (key, _) = SignedPublicKey::from_string(key)
        .map_err(|e| format!("the key for releases cannot be read: {e}"))?;
    key.verify_bindings().map_err(|e| format!("the key for releases is broken: {e}"))?;
    let (signature, _) = DetachedSignature::from_reader_single(signature)
        .map_err(|e| format!("its signature cannot be read: {e}"))?;
    let by_subkey = key
        .public_subkeys
        .iter()
        .filter(|subkey| subkey.signatures.iter().any(|s| s.key_flags().sign()));
    let good = signature.verify(&key, content).is_ok()
        || by_subkey.into_iter().any(|subkey| signature.verify(&subkey.key, content).is_ok());
    if good { Ok(()) } else { Err(format!("its signature is not by key {}", key.fingerprint())) }
}

/// Writes the program of `archive` to `to`. The archive must hold nothing else; after an error
/// nothing is written.
fn unpack(archive: &[u8], to: &Path) -> Result<(), String> {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".unfinished");
    let unfinished = to.with_file_name(name);
    let done = unpack_to(archive, &unfinished).and_then(|()| {
        std::fs::rename(&unfinished, to)
            .map_err(|e| format!("{} cannot be written: {e}", to.display()))
    });
    if done.is_err() {
        let _ = std::fs::remove_file(unfinished);
    }
    done
}

fn unpack_to(archive: &[u8], to: &Path) -> Result<(), String> {
    let wrong = |e: std::io::Error| format!("the archive cannot be read: {e}");
    let mut entries = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let mut found = false;
    for entry in entries.entries().map_err(wrong)? {
        let mut entry = entry.map_err(wrong)?;
        let path = entry.path().map_err(wrong)?.into_owned();
        if found || path != Path::new(PROGRAM) || !entry.header().entry_type().is_file() {
            return Err(format!(
                "the archive holds {:?}, where only the file {PROGRAM:?} belongs",
                path.display().to_string()
            ));
        }
        if entry.size() > PROGRAM_BYTES_MAX {
            return Err(format!("the program is larger than {PROGRAM_BYTES_MAX} bytes"));
        }
        write_program(&mut entry, to)
            .map_err(|e| format!("{} cannot be written: {e}", to.display()))?;
        found = true;
    }
    if found { Ok(()) } else { Err(format!("the archive lacks {PROGRAM:?}")) }
}

fn write_program(from: &mut impl Read, to: &Path) -> std::io::Result<()> {
    let mut options = std::fs::File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o755);
    let mut file = options.open(to)?;
    std::io::copy(&mut from.take(PROGRAM_BYTES_MAX), &mut file)?;
    file.sync_all()
}

/// Runs `program` and returns the version that it prints.
pub async fn version_of(program: &Path) -> Result<String, String> {
    let failed = |why: String| format!("the new program cannot be asked for its version: {why}");
    let mut command = tokio::process::Command::new(program);
    command.arg("version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let asked = tokio::time::timeout(VERSION_WAIT_MAX, command.output()).await;
    let output = asked
        .map_err(|_| failed(format!("no answer within {VERSION_WAIT_MAX:?}")))?
        .map_err(|e| failed(e.to_string()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(failed(format!("it {}", output.status))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(
            Vec::new(),
            flate2::Compression::fast(),
        ));
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            // As an attacker would: set_path refuses what goes up.
            header
                .as_gnu_mut()
                .into_iter()
                .for_each(|h| h.name[..name.len()].copy_from_slice(name.as_bytes()));
            header.set_cksum();
            tar.append(&header, content.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        }
        tar.into_inner().and_then(|gzip| gzip.finish()).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn an_archive_holds_the_program_and_nothing_else() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let to = dir.path().join("inner/new");
        std::fs::create_dir(dir.path().join("inner"))?;
        for wrong in [
            &[][..],
            &[("../eds", "x")],
            &[("eds", "x"), ("more", "y")],
            &[("bin/eds", "x")],
            &[("/eds", "x")],
        ] {
            assert!(unpack(&archive(wrong), &to).is_err(), "{wrong:?}");
            assert!(!dir.path().join("eds").exists() && !to.exists());
        }
        assert!(unpack(b"not an archive", &to).is_err());
        assert_eq!(unpack(&archive(&[(PROGRAM, "x")]), &to), Ok(()));
        assert_eq!(std::fs::read_to_string(&to)?, "x");
        Ok(())
    }

    #[test]
    fn the_built_in_key_can_be_read_and_is_not_a_private_one() {
        assert!(!PUBLIC_KEY.contains("PRIVATE"));
        let said = verify(PUBLIC_KEY, b"no signature", b"x").err().unwrap_or_default();
        assert!(said.contains("its signature cannot be read"), "{said}");
    }

    #[test]
    fn a_version_is_a_part_of_a_url() {
        for (version, good) in [
            ("1.2.3", true),
            ("1.2.3-rc.1+b", true),
            ("../x", false),
            ("1/2", false),
            ("", false),
            ("1?x", false),
        ] {
            assert_eq!(is_version(version), good, "{version}");
        }
    }
}
