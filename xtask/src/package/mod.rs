//! How a program of EDS becomes what people install: archives, packages, images, and what proves
//! that they are genuine.

pub mod archive;
pub mod deb;
pub mod platform;
pub mod rootfs;
pub mod sbom;

use std::path::{Path, PathBuf};

use archive::Signer;
use platform::Platform;

use crate::root;

/// The files of one release, below `download/v<version>` as `eds download` looks for them.
pub struct ReleaseFolder {
    /// The version, without a leading `v`.
    pub version: String,
    /// Where its files are.
    pub folder: PathBuf,
    /// Seconds since 1970 that all files in it are dated with, so that it can be made again.
    pub made_at: u64,
}

impl ReleaseFolder {
    /// A release of the version in `Cargo.toml`, below `place`.
    pub fn below(place: &Path, made_at: u64) -> Result<ReleaseFolder, String> {
        let version = version()?;
        let folder = place.join("download").join(format!("v{version}"));
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        Ok(ReleaseFolder { version, folder, made_at })
    }

    /// Packs `program`, which was built for `platform`: the archive that updates fetch, the list of
    /// what is in it, and for Linux a Debian package. Returns the files.
    pub fn add(&self, platform: &Platform, program: &Path) -> Result<Vec<PathBuf>, String> {
        stands_alone(program)?;
        let archive = self.folder.join(platform.archive_name());
        archive::pack(program, platform.program_name(), &archive, self.made_at)?;
        let bill = self.folder.join(format!("{}.cdx.json", platform.name()));
        let text = sbom::bill(&self.version, platform, program)?;
        std::fs::write(&bill, text).map_err(|e| format!("{}: {e}", bill.display()))?;
        let mut files = vec![archive, bill];
        if let Some(architecture) = platform.debian_architecture() {
            files.push(deb::build(self, architecture, program)?);
        }
        Ok(files)
    }

    /// Writes the checksums of `files`, and lets `signer` sign each of them and the checksums.
    pub fn seal(&self, files: &[PathBuf], signer: Option<&Signer>) -> Result<(), String> {
        let checksums = archive::checksums(files, &self.folder)?;
        let Some(signer) = signer else { return Ok(()) };
        files.iter().chain([&checksums]).try_for_each(|file| signer.sign(file))
    }
}

/// A program that loads the machine's OpenSSL does not start on others: releases are built with the
/// feature `vendored`, as the default features have it.
fn stands_alone(program: &Path) -> Result<(), String> {
    let bytes = std::fs::read(program).map_err(|e| format!("{}: {e}", program.display()))?;
    match bytes.windows(b"libssl.so.".len()).any(|found| found == b"libssl.so.") {
        true => Err(format!(
            "{} loads OpenSSL from the machine: build it with its default features",
            program.display()
        )),
        false => Ok(()),
    }
}

/// The version in `Cargo.toml`, which all packages of the workspace have.
pub fn version() -> Result<String, String> {
    let path = root().join("Cargo.toml");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("version = \""));
    let version = line.and_then(|rest| rest.split('"').next());
    version.map(str::to_owned).ok_or_else(|| format!("{}: there is no version", path.display()))
}
