//! The archive of a program, its checksum and its signature.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{TaskResult, output};

/// Packs `program` under `name`, alone, into `to`. The same program gives the same bytes.
pub fn pack(program: &Path, name: &str, to: &Path, made_at: u64) -> TaskResult {
    let folder = to.with_extension("packing");
    let done = std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::copy(program, folder.join(name)).map(drop))
        .map_err(|e| format!("{}: {e}", program.display()))
        .and_then(|()| tar(&folder, name, to, made_at));
    let _ = std::fs::remove_dir_all(&folder);
    done
}

/// Packs what is called `name` in `folder`: owned by nobody in particular, all dated alike.
fn tar(folder: &Path, name: &str, to: &Path, made_at: u64) -> TaskResult {
    let failed = |e: std::io::Error| format!("{}: {e}", to.display());
    let mut tar = Command::new("tar")
        .args(["--format=gnu", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .args(["--mode=u=rwx,go=rx", &format!("--mtime=@{made_at}"), "-cf", "-", "-C"])
        .arg(folder)
        .arg(name)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("tar: {e}"))?;
    let packed = tar.stdout.take().ok_or("tar has no output")?;
    let gzip = Command::new("gzip")
        .args(["-n", "-9"])
        .stdin(packed)
        .stdout(File::create(to).map_err(failed)?)
        .status()
        .map_err(|e| format!("gzip: {e}"))?;
    let tar = tar.wait().map_err(|e| format!("tar: {e}"))?;
    match tar.success() && gzip.success() {
        true => Ok(()),
        false => Err(format!("{} cannot be packed", to.display())),
    }
}

/// Writes `checksums.txt`, which `sha256sum --check` reads.
pub fn checksums(files: &[PathBuf], folder: &Path) -> Result<PathBuf, String> {
    let to = folder.join("checksums.txt");
    let mut lines = Vec::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        lines.push(format!("{}  {name}\n", sha256(file)?));
    }
    lines.sort_by(|a, b| a[64..].cmp(&b[64..]));
    std::fs::write(&to, lines.concat()).map_err(|e| format!("{}: {e}", to.display()))?;
    Ok(to)
}

/// The SHA-256 of a file, in hexadecimal.
pub fn sha256(file: &Path) -> Result<String, String> {
    let text = output(Command::new("sha256sum").arg("--").arg(file))?;
    let sum = text.trim_start_matches('\\').get(..64);
    sum.map(str::to_owned).ok_or_else(|| format!("sha256sum printed {text:?}"))
}

/// Who signs.
pub struct Signer {
    /// Names the key in gpg's keyring.
    pub key: String,
    /// Where the keyring is, if it is not gpg's own.
    pub home: Option<PathBuf>,
}

impl Signer {
    fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        if let Some(home) = &self.home {
            gpg.arg("--homedir").arg(home);
        }
        gpg.args(["--batch", "--yes"]);
        gpg
    }

    /// Writes the armored signature of `file` beside it.
    pub fn sign(&self, file: &Path) -> TaskResult {
        let mut signature = file.as_os_str().to_owned();
        signature.push(".asc");
        let mut gpg = self.gpg();
        gpg.args(["--armor", "--digest-algo", "SHA256", "--local-user", &self.key, "--output"]);
        output(gpg.arg(signature).arg("--detach-sign").arg(file)).map(drop)
    }

    /// Whether the key is the one in the file `public`, with which programs verify releases.
    pub fn is_owner_of(&self, public: &Path) -> Result<bool, String> {
        let mut given = self.gpg();
        given.args(["--with-colons", "--list-secret-keys", &self.key]);
        let mut wanted = self.gpg();
        wanted.args(["--with-colons", "--import-options", "show-only", "--import"]).arg(public);
        let wanted = fingerprint(&output(&mut wanted)?);
        Ok(wanted.is_some() && wanted == fingerprint(&output(&mut given)?))
    }
}

/// The first fingerprint in what gpg lists with colons.
fn fingerprint(listed: &str) -> Option<String> {
    let line = listed.lines().find(|line| line.starts_with("fpr:"))?;
    line.split(':').nth(9).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fingerprint_is_the_keys() {
        let listed = "sec:u:255:22:1:2\nfpr:::::::::AB12:\nssb:u:\nfpr:::::::::CD34:\n";
        assert_eq!(fingerprint(listed).as_deref(), Some("AB12"));
        assert_eq!(fingerprint("gpg: nothing"), None);
    }
}
