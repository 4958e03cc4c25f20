//! The image's root file system, assembled and run: read-only, without a shell, as its own user.

use std::path::{Path, PathBuf};
use std::process::Command;

use xtask::package::rootfs::{self, DATA, USER};

use super::health::answering;
use super::{are_known, done, text_of};
use crate::services::eds::{Running, binary};
use crate::services::hq::said;
use crate::services::site::{CODE, Site};

/// Mounts what a container runtime would: the root read-only, the data on a disk of its own, a
/// directory for temporary files. `$1` is the root, `$2` what is mounted as its data.
const MOUNTS: &str = "set -e; mount --bind \"$1\" \"$1\"; mount --bind \"$2\" \"$1/var/lib/eds\"; \
                      mount -t tmpfs tmpfs \"$1/tmp\"; mount -t proc proc \"$1/proc\"; mount \
                      --rbind /dev \"$1/dev\"; mount -o remount,bind,ro \"$1\"; r=$1; \
                      shift 2; exec unshare --root \"$r\" --wd /var/lib/eds --setuid 65532 \
                      --setgid 65532 /usr/bin/eds \"$@\"";

/// A root file system of this build's program, and a directory for its data.
pub struct Image {
    root: PathBuf,
    data: PathBuf,
}

impl Image {
    pub fn in_folder(dir: &Path) -> Image {
        let image = Image { root: dir.join("image"), data: dir.join("volume") };
        rootfs::write(Path::new(binary()), &image.root).unwrap_or_else(|e| panic!("{e}"));
        std::fs::create_dir_all(&image.data).unwrap_or_else(|e| panic!("{e}"));
        std::os::unix::fs::chown(&image.data, Some(USER), Some(USER))
            .unwrap_or_else(|e| panic!("{e}"));
        image
    }

    /// `eds` with these words, as a container of the image runs it.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", MOUNTS, "sh"]);
        command.arg(&self.root).arg(&self.data).args(words);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => files(&entry.path(), out),
            false => out.push(entry.path()),
        }
    }
}

/// Nothing is in it but the program, its libraries and a few texts.
#[test]
fn the_image_has_the_program_and_no_shell() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let image = Image::in_folder(dir.path());
    let mut found = Vec::new();
    files(&image.root, &mut found);
    let relative = |path: &PathBuf| {
        path.strip_prefix(&image.root).unwrap_or(path).to_string_lossy().into_owned()
    };
    for path in found.iter().map(relative) {
        let is_library = path.contains(".so");
        let is_known = path.starts_with("etc/") || path == "usr/bin/eds";
        assert!(is_library || is_known, "{path} does not belong into the image");
    }
    let output = done(&mut image.command(&["version"]));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), env!("CARGO_PKG_VERSION"));
}

/// The root is read-only and not the program's own; the data is.
#[test]
fn the_image_writes_its_data_only() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let image = Image::in_folder(dir.path());
    let demo = ["demo", "--for", "1s", "--rate", "200"];
    let output = done(&mut image.command(&demo));
    assert!(said(&output).contains("Every table is equal"), "{}", said(&output));
    let mut made = Vec::new();
    files(&image.data, &mut made);
    assert!(!made.is_empty(), "the demo leaves its files in the data");
    for path in made {
        let owner = std::fs::metadata(&path).map(|m| std::os::unix::fs::MetadataExt::uid(&m));
        assert!(owner.is_ok_and(|uid| uid == USER), "{}", path.display());
    }
    let elsewhere = ["replay", "/nowhere", "--url", "sqlite:///etc/x.db", "--data-dir", "/etc/x"];
    let refused = image.command(&elsewhere).output().unwrap_or_else(|e| panic!("{e}"));
    assert!(!refused.status.success() && !image.root.join("etc/x").exists());
}

/// A server lives in it: enrolled, streaming, stopped by SIGTERM to the container's first process.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_lives_in_the_image() {
    let site = Site::new("contained", 93).await;
    let image = Image::in_folder(site.dir.path());
    let nats = site.nats.url();
    let mut enrolling = image.command(&["enroll", CODE, "--api-url", site.hq.url()]);
    let output = tokio::task::spawn_blocking(move || enrolling.output()).await;
    let output = output.unwrap_or_else(|e| panic!("{e}")).unwrap_or_else(|e| panic!("{e}"));
    assert!(output.status.success(), "{}", said(&output));
    let words = ["server", "--server", &nats, "--port", "0", "--url", "sqlite://shop.db"];
    let running = Running::start(image.command(&words), site.dir.path().join("server.log"));
    site.until_log("streaming eds-", 1).await;
    site.publish(50).await;
    let (shop, path) = (site.shop(), image.data.join("shop.db").display().to_string());
    crate::services::eventually("rows arrive", std::time::Duration::from_secs(60), async || {
        eds::sandbox::check::sqlite(&shop, &path).is_ok_and(|all| all.iter().all(|r| r.is_equal()))
    })
    .await;
    let first = crate::services::site::children_of(running.pid());
    crate::services::send(first.first().copied().unwrap_or(running.pid()), "TERM");
    let ended = running.wait(std::time::Duration::from_secs(60));
    assert!(ended.status.success(), "{}", ended.log);
}

/// What the Containerfile says is what the root file system has and the program knows.
#[test]
fn the_containerfile_fits_the_program() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let image = Image::in_folder(dir.path());
    let text = text_of("Containerfile");
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("the Containerfile has no {key}"))
    };
    let list = |key: &str| -> Vec<String> {
        serde_json::from_str(value(key)).unwrap_or_else(|e| panic!("{key}: {e}"))
    };
    assert_eq!(list("ENTRYPOINT "), ["/usr/bin/eds"]);
    assert_eq!(value("USER "), format!("{USER}:{USER}"));
    assert_eq!(value("WORKDIR /var"), DATA.trim_start_matches("var"));
    let command = list("CMD ");
    are_known(&command.iter().map(String::as_str).collect::<Vec<_>>());
    let (_, check) = value("HEALTHCHECK ").split_once("CMD ").unwrap_or_default();
    let check: Vec<String> = serde_json::from_str(check).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(check[0], "/usr/bin/eds");
    let check: Vec<&str> = check[1..].iter().map(String::as_str).collect();
    for (answer, is_well) in
        [("HTTP/1.1 200 OK\r\n\r\nOK", true), ("HTTP/1.1 503 Away\r\n\r\nno", false)]
    {
        let mut command = image.command(&check);
        command.env("EDS_BIND", "0.0.0.0").env("PORT", answering(answer).to_string());
        let output = command.output().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(output.status.success(), is_well, "{}", said(&output));
    }
    let toolchain = text_of("rust-toolchain.toml");
    let version = value("FROM docker.io/library/rust:").split('-').next().unwrap_or_default();
    assert!(toolchain.contains(&format!("\"{version}.")), "{version} in {toolchain}");
}
