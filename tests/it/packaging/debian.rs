//! The Debian package: what is in it, and the service that it installs.

use std::path::{Path, PathBuf};
use std::process::Command;

use xtask::package::{ReleaseFolder, deb};

use super::{are_known, done, text_of};

/// The most that systemd's own judgement of a service may come to: from 0, safe, to 100.
const EXPOSURE_MAX: &str = "15";

/// A package of a program that only says its version.
fn package(dir: &Path) -> PathBuf {
    let program = dir.join("program");
    std::fs::write(&program, "#!/bin/sh\necho GLIBC_2.36\n").unwrap_or_else(|e| panic!("{e}"));
    let release =
        ReleaseFolder { version: "1.2.3".into(), folder: dir.to_owned(), made_at: 1_700_000_000 };
    deb::build(&release, "amd64", &program).unwrap_or_else(|e| panic!("{e}"))
}

fn printed(command: &mut Command) -> String {
    String::from_utf8_lossy(&done(command).stdout).into_owned()
}

#[test]
fn the_package_has_the_program_its_service_and_its_documents() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let package = package(dir.path());
    assert!(package.ends_with("eds_1.2.3_amd64.deb"));
    let field = |name: &str| {
        printed(Command::new("dpkg-deb").arg("--field").arg(&package).arg(name)).trim().to_owned()
    };
    assert_eq!(field("Package"), "eds");
    assert_eq!(field("Version"), "1.2.3");
    assert_eq!(field("Architecture"), "amd64");
    assert_eq!(field("Depends"), "libc6 (>= 2.36), libgcc-s1, ca-certificates");
    let contents = printed(Command::new("dpkg-deb").arg("--contents").arg(&package));
    for (mode, path) in [
        ("-rwxr-xr-x root/root", "./usr/bin/eds"),
        ("-rw-r--r-- root/root", "./usr/lib/systemd/system/eds.service"),
        ("-rw-r--r-- root/root", "./usr/lib/sysusers.d/eds.conf"),
        ("-rw-r--r-- root/root", "./usr/share/eds/eds.rules.yml"),
        ("-rw-r--r-- root/root", "./usr/share/doc/eds/install.md"),
        ("-rw-r--r-- root/root", "./usr/share/man/man1/eds.1"),
        ("-rw-r--r-- root/root", "./usr/share/bash-completion/completions/eds"),
        ("-rw-r--r-- root/root", "./usr/share/doc/eds/copyright"),
    ] {
        let line = contents.lines().find(|line| line.ends_with(path));
        assert!(line.is_some_and(|line| line.starts_with(mode)), "{path}:\n{contents}");
    }
    let raw = dir.path().join("raw");
    done(Command::new("dpkg-deb").arg("--raw-extract").arg(&package).arg(&raw));
    for script in ["postinst", "prerm", "postrm"] {
        done(Command::new("sh").arg("-n").arg(raw.join("DEBIAN").join(script)));
    }
}

/// dpkg itself unpacks it into an empty system.
#[test]
fn dpkg_unpacks_it() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let (package, root) = (package(dir.path()), dir.path().join("root"));
    for place in ["updates", "info"] {
        std::fs::create_dir_all(root.join("var/lib/dpkg").join(place))
            .unwrap_or_else(|e| panic!("{e}"));
    }
    std::fs::write(root.join("var/lib/dpkg/status"), "").unwrap_or_else(|e| panic!("{e}"));
    let mut dpkg = Command::new("dpkg");
    dpkg.arg(format!("--root={}", root.display())).arg("--force-architecture").arg("--unpack");
    done(dpkg.arg(&package));
    assert!(root.join("usr/bin/eds").exists());
    let status = std::fs::read_to_string(root.join("var/lib/dpkg/status"));
    assert!(status.is_ok_and(|text| text.contains("Package: eds")));
}

/// systemd accepts the service, finds it well confined, and what it starts is a command of EDS.
#[test]
fn systemd_accepts_the_service() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let (package, root) = (package(dir.path()), dir.path().join("root"));
    done(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&root));
    // What it reloads with comes with every system.
    std::fs::create_dir_all(root.join("bin"))
        .and_then(|()| std::fs::copy("/bin/true", root.join("bin/kill")))
        .unwrap_or_else(|e| panic!("{e}"));
    let analyze = || {
        let mut analyze = Command::new("systemd-analyze");
        analyze.arg("--no-pager").arg(format!("--root={}", root.display()));
        analyze
    };
    let verified = done(analyze().args(["--recursive-errors=no", "verify", "eds.service"]));
    let complaints = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(!complaints.contains("eds.service"), "{complaints}");
    let mut security = analyze();
    security.args(["security", "--offline=true", &format!("--threshold={EXPOSURE_MAX}")]);
    done(security.arg("eds.service"));

    let unit = text_of("packaging/systemd/eds.service");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key));
    let start = value("ExecStart=/usr/bin/eds ").unwrap_or_else(|| panic!("no ExecStart"));
    are_known(&start.split(' ').collect::<Vec<_>>());
    assert_eq!(value("Type="), Some("notify"));
    for secret in ["EDS_URL", "SM_APIKEY"] {
        assert!(unit.contains(&format!("\nLoadCredential={secret}\n")), "{secret}");
    }
}
