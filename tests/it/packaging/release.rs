//! A release is what updates and `eds download` take, and anybody can check it.

use std::path::{Path, PathBuf};
use std::process::Command;

use eds::release::archive_name;
use xtask::package::archive::{Signer, pack};
use xtask::package::platform::{PLATFORMS, Platform};
use xtask::package::{ReleaseFolder, sbom, version};

use super::done;
use crate::services::eds::binary;
use crate::services::hq::said;
use crate::services::site::Site;

/// A release in `dir`, of a program for this machine, signed by a key of its own.
struct Made {
    release: ReleaseFolder,
    files: Vec<PathBuf>,
    signer: Signer,
    public: PathBuf,
}

/// The platform that the tests run on.
fn here() -> &'static Platform {
    let here = PLATFORMS.iter().find(|platform| platform.is_here());
    here.unwrap_or_else(|| panic!("releases are not made for this machine"))
}

/// A signer with a new key, and that key's public half in a file.
fn signer(dir: &Path) -> (Signer, PathBuf) {
    let home = dir.join("gnupg");
    std::fs::create_dir_all(&home).unwrap_or_else(|e| panic!("{e}"));
    xtask::package::rootfs::set_mode(&home, 0o700).unwrap_or_else(|e| panic!("{e}"));
    let gpg = || {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(&home).arg("--batch");
        gpg
    };
    let owner = "tests <tests@example.com>";
    done(gpg().args(["--passphrase", "", "--quick-gen-key", owner, "ed25519", "sign", "never"]));
    let public = dir.join("public.asc");
    let exported = done(gpg().args(["--armor", "--export", "tests@example.com"]));
    std::fs::write(&public, exported.stdout).unwrap_or_else(|e| panic!("{e}"));
    (Signer { key: "tests@example.com".into(), home: Some(home) }, public)
}

impl Made {
    fn new(dir: &Path, version: &str, script: &str) -> Made {
        let program = dir.join("program");
        std::fs::write(&program, script).unwrap_or_else(|e| panic!("{e}"));
        let folder = dir.join("releases/download").join(format!("v{version}"));
        std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{e}"));
        let release = ReleaseFolder { version: version.into(), folder, made_at: 1_700_000_000 };
        let files = release.add(here(), &program).unwrap_or_else(|e| panic!("{e}"));
        let (signer, public) = signer(dir);
        release.seal(&files, Some(&signer)).unwrap_or_else(|e| panic!("{e}"));
        Made { release, files, signer, public }
    }
}

/// What `cargo x release` makes, `eds download` takes, and a server updates itself to it.
#[tokio::test(flavor = "multi_thread")]
async fn servers_take_what_the_release_task_makes() {
    let site = Site::new("packaged", 66).await;
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = version ]; then echo 9.9.9; exit 0; fi\nexec '{}' \"$@\"\n",
        binary()
    );
    let made = Made::new(site.dir.path(), "9.9.9", &script);
    site.hq.serve_releases(site.dir.path().join("releases"));
    let (url, key, to) = (
        format!("{}/releases", site.hq.url()),
        made.public.display().to_string(),
        site.dir.path().join("fetched").display().to_string(),
    );
    let from = ["--release-url", &url, "--release-key", &key];
    let output = site.run(&[&["download", "9.9.9", &to][..], &from].concat()).await;
    assert!(output.status.success(), "{}", said(&output));
    let fetched = std::fs::read_to_string(&to).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(fetched, script);

    // The server's own program is a copy, because it is going to be replaced.
    let program = site.dir.path().join("eds");
    std::fs::copy(binary(), &program).unwrap_or_else(|e| panic!("{e}"));
    site.enroll().await;
    let url = site.sqlite();
    let words = [&["--url", &url, "--self-update", "always"][..], &from].concat();
    let server = site.server_of(&program, &words);
    let session = site.session(0).await;
    site.until_log("streaming eds-", 1).await;
    let wanted = serde_json::json!({"version": "9.9.9"});
    let answer = site.order(&session, "upgrade", wanted).await;
    assert!(answer["success"] == true && answer["version"] == "9.9.9", "{answer}");
    assert_eq!(std::fs::read_to_string(&program).unwrap_or_default(), script);
    drop(server);
}

/// Checksums and signatures are those that sha256sum and gpg check, and name every file.
#[test]
fn anybody_can_check_a_release() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let made = Made::new(dir.path(), "1.2.3", "#!/bin/sh\n");
    let folder = &made.release.folder;
    done(
        Command::new("sha256sum")
            .args(["--check", "--strict", "checksums.txt"])
            .current_dir(folder),
    );
    let checksums =
        std::fs::read_to_string(folder.join("checksums.txt")).unwrap_or_else(|e| panic!("{e}"));
    let names: Vec<String> = made
        .files
        .iter()
        .map(|file| file.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names[0], archive_name(), "the archive that this program would fetch");
    for name in names.iter().map(String::as_str).chain(["checksums.txt"]) {
        assert!(name == "checksums.txt" || checksums.contains(&format!("  {name}\n")), "{name}");
        let mut gpg = Command::new("gpg");
        gpg.args(["--batch", "--homedir"]).arg(dir.path().join("gnupg")).arg("--verify");
        done(gpg.arg(folder.join(format!("{name}.asc"))).arg(folder.join(name)));
    }
    assert_eq!(made.signer.is_owner_of(&made.public), Ok(true));
    let built_in = super::project("release-key.asc");
    assert_eq!(made.signer.is_owner_of(&built_in), Ok(false), "a stranger's key is refused");
}

/// A program that would not start on another machine is not released.
#[test]
fn what_needs_the_machines_openssl_is_refused() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let program = dir.path().join("program");
    std::fs::write(&program, "ELF\0libssl.so.3\0").unwrap_or_else(|e| panic!("{e}"));
    let release = ReleaseFolder::below(dir.path(), 1).unwrap_or_else(|e| panic!("{e}"));
    let refused = release.add(here(), &program);
    assert!(refused.is_err_and(|why| why.contains("default features")));
}

/// The same program gives the same archive, whenever it is packed.
#[test]
fn an_archive_can_be_made_again() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let packed = |name: &str| {
        let program = dir.path().join(name);
        std::fs::write(&program, "#!/bin/sh\n").unwrap_or_else(|e| panic!("{e}"));
        let to = dir.path().join(format!("{name}.tar.gz"));
        pack(&program, "eds", &to, 1_700_000_000).unwrap_or_else(|e| panic!("{e}"));
        std::fs::read(to).unwrap_or_else(|e| panic!("{e}"))
    };
    let first = packed("one");
    let later = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    let file = std::fs::File::create(dir.path().join("two")).unwrap_or_else(|e| panic!("{e}"));
    file.set_modified(later).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(first, packed("two"));
}

/// CycloneDX' own schema accepts the bill.
fn follows_the_schema(bill: &str) {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let file = dir.path().join("bill.json");
    std::fs::write(&file, bill).unwrap_or_else(|e| panic!("{e}"));
    let script = "import sys; from cyclonedx.schema import SchemaVersion; from \
                  cyclonedx.validation.json import JsonStrictValidator; wrong = \
                  JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read()); \
                  sys.exit(wrong and str(wrong))";
    done(super::python().args(["-c", script]).arg(file));
}

/// The bill of materials names what is in the program, with the checksums of `Cargo.lock`.
#[test]
fn the_bill_names_every_part() {
    let version = version().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    let bill = sbom::bill(&version, here(), Path::new(binary())).unwrap_or_else(|e| panic!("{e}"));
    follows_the_schema(&bill);
    let bill: serde_json::Value = serde_json::from_str(&bill).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        (bill["bomFormat"].as_str(), bill["specVersion"].as_str()),
        (Some("CycloneDX"), Some("1.5"))
    );
    let lock = super::text_of("Cargo.lock");
    let parts: Vec<_> = bill["components"].as_array().into_iter().flatten().collect();
    for name in ["tokio", "rustls", "tokio-postgres", "rdkafka", "librdkafka", "openssl", "zstd"] {
        assert!(parts.iter().any(|part| part["name"] == name), "{name} is missing");
    }
    for part in &parts {
        let purl = part["purl"].as_str().unwrap_or_default();
        if purl.starts_with("pkg:cargo/") {
            let hash = part["hashes"][0]["content"].as_str().unwrap_or("no hash");
            let entry = format!("name = {}\nversion = {}\n", part["name"], part["version"]);
            let at = lock.find(&entry).unwrap_or_else(|| panic!("{purl} is not in Cargo.lock"));
            let entry = lock[at..].split("[[package]]").next().unwrap_or_default();
            assert!(entry.contains(hash), "{purl}: {hash}");
            assert!(part["licenses"][0]["expression"].is_string(), "{purl} has no licence");
        }
    }
    for foreign in ["tempfile", "proptest", "windows-sys", "eds", "xtask"] {
        assert!(parts.iter().all(|part| part["name"] != foreign), "{foreign} is not in it");
    }
}
