//! `cargo x release` and `cargo x rootfs`: from the code to what people install.

use std::path::{Path, PathBuf};
use std::process::Command;

use xtask::package::archive::Signer;
use xtask::package::platform::{PLATFORMS, Platform};
use xtask::package::{self, ReleaseFolder};

use crate::{TaskResult, output, root};

/// What the words after `cargo x release` ask for.
#[derive(Debug, Default)]
struct ReleaseWords {
    /// The gpg key that signs; nothing is signed without one.
    key: Option<String>,
    /// Where the release is put.
    to: Option<PathBuf>,
    /// The platforms; none means all that can be built here.
    targets: Vec<String>,
    /// A program that is built already, for the one platform.
    program: Option<PathBuf>,
}

impl ReleaseWords {
    fn read(words: &[&str]) -> Result<ReleaseWords, String> {
        let mut wanted = ReleaseWords::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            match *word {
                "--key" => wanted.key = Some((*value).to_owned()),
                "--to" => wanted.to = Some(value.into()),
                "--target" => wanted.targets.push((*value).to_owned()),
                "--program" => wanted.program = Some(value.into()),
                other => return Err(format!("{other} is not known; `cargo x` lists what is")),
            }
        }
        if wanted.program.is_some() && wanted.targets.len() != 1 {
            return Err("--program needs the one --target that it was built for".into());
        }
        Ok(wanted)
    }

    /// The platforms to build for. What was not asked for by name and cannot be built here is said
    /// and left out.
    fn platforms(&self) -> Result<Vec<&'static Platform>, String> {
        if !self.targets.is_empty() {
            return self.targets.iter().map(|target| Platform::of(target)).collect();
        }
        let mut able = Vec::new();
        for platform in PLATFORMS {
            match platform.can_be_built() {
                Ok(()) => able.push(platform),
                Err(missing) => println!("{}: NOT BUILT: {missing}", platform.name()),
            }
        }
        Ok(able)
    }
}

/// Builds, packs and signs a release.
pub fn release(words: &[&str]) -> TaskResult {
    let wanted = ReleaseWords::read(words)?;
    let signer = wanted.key.as_ref().map(|key| Signer { key: key.clone(), home: None });
    if let Some(signer) = &signer
        && !signer.is_owner_of(&root().join("release-key.asc"))?
    {
        return Err(format!(
            "{} is not the key in release-key.asc: servers would refuse this release; replace \
             that file by the public key first",
            signer.key
        ));
    }
    let place = wanted.to.clone().unwrap_or_else(|| root().join("target/release-files"));
    let release = ReleaseFolder::below(&place, made_at()?)?;
    let mut files = Vec::new();
    for platform in wanted.platforms()? {
        let program = match &wanted.program {
            Some(program) => program.clone(),
            None => build(platform)?,
        };
        files.extend(release.add(platform, &program)?);
    }
    if files.is_empty() {
        return Err("this machine can build for no platform of EDS".into());
    }
    release.seal(&files, signer.as_ref())?;
    if signer.is_none() {
        println!("Nothing is signed: servers take only what --key signs.");
    }
    println!(
        "{} files of version {} in {}",
        files.len(),
        release.version,
        release.folder.display()
    );
    Ok(())
}

/// When the last commit was made, unless `SOURCE_DATE_EPOCH` says otherwise: the same code gives
/// the same files.
fn made_at() -> Result<u64, String> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => output(Command::new("git").args(["log", "-1", "--format=%ct"]))?,
    };
    text.trim().parse().map_err(|_| format!("{text:?} is no time in seconds"))
}

fn build(platform: &Platform) -> Result<PathBuf, String> {
    println!("$ cargo build --release --target {}", platform.target);
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "--package", "eds", "--target", platform.target])
        // Wherever else this machine puts what it builds, the program is looked for there.
        .arg("--target-dir")
        .arg(root().join("target"))
        .envs(platform.build_environment())
        .current_dir(root())
        .status()
        .map_err(|e| format!("cargo: {e}"))?;
    if !status.success() {
        return Err(format!("EDS cannot be built for {}", platform.target));
    }
    let folder = root().join("target").join(platform.target).join("release");
    Ok(folder.join(platform.program_name()))
}

/// Writes the root file system of the image.
pub fn rootfs(words: &[&str]) -> TaskResult {
    let [program, to] = words else { return Err("which program, and where to?".into()) };
    package::rootfs::write(Path::new(program), Path::new(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_wrong_ones_named() -> TaskResult {
        let words = ["--key", "k", "--target", "aarch64-unknown-linux-gnu", "--program", "p"];
        let wanted = ReleaseWords::read(&words)?;
        assert_eq!((wanted.key.as_deref(), wanted.to), (Some("k"), None));
        assert_eq!(wanted.program, Some("p".into()));
        for (words, expected) in [
            (&["--key"][..], "--key needs a value"),
            (&["--frobnicate", "x"], "--frobnicate is not known"),
            (&["--program", "p"], "--program needs the one --target"),
        ] {
            let refused = ReleaseWords::read(words);
            assert!(refused.is_err_and(|why| why.contains(expected)), "{expected}");
        }
        let strange = ReleaseWords { targets: vec!["sparc".into()], ..ReleaseWords::default() };
        assert!(strange.platforms().is_err_and(|why| why.contains("sparc is no platform")));
        Ok(())
    }
}
