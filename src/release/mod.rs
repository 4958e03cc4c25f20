//! Releases of EDS: downloaded, verified by their signature, unpacked, and swapped in.

mod key;
mod swap;
mod version;

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::cause::chain;
use crate::clock;
use crate::http::Http;
use crate::secret::place;
use key::verify;
pub use swap::{FileStamp, Probation, Swap};
pub use version::is_older;

/// The OpenPGP key that releases are signed with, armored. Whoever publishes releases of their own
/// replaces the file.
pub const PUBLIC_KEY: &str = include_str!("../../release-key.asc");
/// The repository of Cargo.toml: by default releases come from there.
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");

/// The most bytes of an archive, of the program in it, and of its signature.
const ARCHIVE_BYTES_MAX: usize = 256 << 20;
const PROGRAM_BYTES_MAX: u64 = 512 << 20;
const SIGNATURE_BYTES_MAX: usize = 64 << 10;
/// How long the download of a release may take.
const DOWNLOAD_WAIT_MAX: Duration = Duration::from_secs(15 * 60);
/// Between two tries to run a program that is still open for writing somewhere.
const BUSY_WAIT: Duration = Duration::from_millis(50);
const BUSY_TRIES_MAX: u32 = 20;
/// How long a new program may take to say its version, or its help.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

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

    /// Asks the place of releases for anything; the place, as it may be shown.
    pub async fn answers(&self) -> Result<String, String> {
        let shown = place(&self.url);
        match self.http.fetch(&self.url, 0).await {
            Ok(_) => Ok(shown),
            Err(e) => {
                let why = chain(&e.without_url());
                Err(format!("the place of releases, {shown}, cannot be reached: {why}"))
            }
        }
    }

    /// Downloads the release of `version`, with or without a leading `v`, verifies its signature
    /// and what version its program says to be, and writes that to `to`, ready to run. After an
    /// error there is nothing at `to`.
    pub async fn fetch(&self, version: &str, to: &Path) -> Result<(), String> {
        let version = version.trim_start_matches('v');
        if !is_version(version) {
            return Err(format!("{version:?} is not a version such as 1.2.3"));
        }
        let url = format!("{}/download/v{version}/{}", self.url, archive_name());
        let late = |_| format!("{} was not downloaded within {DOWNLOAD_WAIT_MAX:?}", place(&url));
        let (signature, archive) =
            timeout(DOWNLOAD_WAIT_MAX, self.download(&url)).await.map_err(late)??;
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(".unfinished");
        let unfinished = to.with_file_name(name);
        let done =
            self.check(version, &url, signature, archive, &unfinished).await.and_then(|()| {
                std::fs::rename(&unfinished, to)
                    .map_err(|e| format!("{} cannot be written: {e}", to.display()))
            });
        if done.is_err() {
            let _ = std::fs::remove_file(unfinished);
        }
        done
    }

    async fn download(&self, url: &str) -> Result<(Vec<u8>, Vec<u8>), String> {
        let signature = self.http.download(&format!("{url}.asc"), SIGNATURE_BYTES_MAX).await?;
        Ok((signature, self.http.download(url, ARCHIVE_BYTES_MAX).await?))
    }

    /// Writes the program to `to` if it is genuine, and of that version.
    async fn check(
        &self,
        version: &str,
        url: &str,
        signature: Vec<u8>,
        archive: Vec<u8>,
        to: &Path,
    ) -> Result<(), String> {
        let (key, to, url) = (self.key.clone(), to.to_owned(), url.to_owned());
        let unpacked = tokio::task::spawn_blocking(move || {
            let now = clock::now_s();
            verify(&key, &signature, &archive, now)
                .map_err(|why| format!("the release at {} is not genuine: {why}", place(&url)))?;
            unpack(&archive, &to)
                .map_err(|why| format!("the release at {}: {why}", place(&url)))?;
            Ok::<_, String>(to)
        });
        let program = unpacked.await.map_err(|e| e.to_string())??;
        let found = version_of(&program).await?;
        if found == version {
            return Ok(());
        }
        Err(format!("the program in the release says that it is version {found:?}"))
    }
}

/// Writes the program of `archive` to `to`. The archive must hold nothing else.
fn unpack(archive: &[u8], to: &Path) -> Result<(), String> {
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
async fn version_of(program: &Path) -> Result<String, String> {
    let output = output_of(program, ["version"]).await;
    let said = output.and_then(|output| match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("it ended with {}", output.status)),
    });
    said.map_err(|why| format!("the new program cannot be asked for its version: {why}"))
}

/// Whether `program` takes these arguments of a server: one that does not would end before it could
/// count its starts, every time. Its help makes it read them, and nothing else.
pub async fn takes_arguments(program: &Path, words: &[OsString]) -> Result<(), String> {
    let asked = words.iter().cloned().chain(["--help".into()]);
    let output = output_of(program, asked).await;
    // What it says may hold what the arguments hold, which is nobody else's business.
    let taken = output.and_then(|output| match output.status.success() {
        true => Ok(()),
        false => Err(format!("it ended with {}", output.status)),
    });
    taken.map_err(|why| {
        format!("the new program does not take the arguments that this server has: {why}")
    })
}

/// The arguments of the program that takes this one's place in the same process.
pub fn next_arguments(paused: bool) -> Vec<OsString> {
    // These two flags are about the first start only.
    let once = |word: &OsString| {
        word.to_str().is_some_and(|word| {
            ["--paused", "--restart"].iter().any(|flag| word.split('=').next() == Some(*flag))
        })
    };
    let own = std::env::args_os().skip(1).filter(|word| !once(word));
    own.chain(paused.then(|| "--paused".into())).collect()
}

async fn output_of(
    program: &Path,
    words: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<Output, String> {
    let mut command = tokio::process::Command::new(program);
    command.args(words).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    // It is to say its version, and no document about it.
    command.env_remove("EDS_JSON");
    let mut tries = 0;
    loop {
        let asked = timeout(ANSWER_WAIT_MAX, command.output()).await;
        match asked.map_err(|_| format!("no answer within {ANSWER_WAIT_MAX:?}"))? {
            // A process that another thread is about to start still has the file open.
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES_MAX => {
                tries += 1;
                sleep(BUSY_WAIT).await;
            }
            output => return output.map_err(|e| e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte now and then keeps a connection alive, and no download.
    #[tokio::test(start_paused = true)]
    async fn a_download_as_a_whole_has_its_time() -> Result<(), Box<dyn std::error::Error>> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/releases", listener.local_addr()?);
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n").await?;
            while stream.write_all(b"x").await.is_ok() {
                sleep(Duration::from_secs(10)).await;
            }
            Ok::<(), std::io::Error>(())
        });
        let source = ReleaseSource::new(Http::new()?, Some(&url), None)?;
        let dir = tempfile::tempdir()?;
        let begun = tokio::time::Instant::now();
        let why = source.fetch("1.2.3", &dir.path().join("eds")).await.err().unwrap_or_default();
        assert!(why.contains("was not downloaded within 900s"), "{why}");
        assert_eq!(begun.elapsed(), DOWNLOAD_WAIT_MAX);
        server.abort();
        Ok(())
    }

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
            assert!(!dir.path().join("eds").exists());
        }
        assert!(unpack(b"not an archive", &to).is_err());
        assert_eq!(unpack(&archive(&[(PROGRAM, "x")]), &to), Ok(()));
        assert_eq!(std::fs::read_to_string(&to)?, "x");
        Ok(())
    }

    #[test]
    fn the_built_in_key_can_be_read_and_is_not_a_private_one() {
        assert!(!PUBLIC_KEY.contains("PRIVATE"));
        let said =
            verify(PUBLIC_KEY, b"no signature", b"x", clock::now_s()).err().unwrap_or_default();
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
