//! Continuous integration: build once, run the tests, and use what they leave of the processor for
//! the checks that need no server.

use std::process::Command;
use std::time::Instant;

use xtask::package::platform::Platform;

use crate::{TaskResult, root, run, run_with, services};

/// Everything, with the machine's OpenSSL: building one from source takes minutes, and only
/// releases need it.
pub const ALL: [&str; 4] = ["--locked", "--no-default-features", "--features", "full"];
/// Lets clippy compile what belongs to the project, and no warning pass: what it has looked at is
/// what is tested, and nothing is compiled a second time to be looked at.
const BY_CLIPPY: [(&str, &str); 2] =
    [("RUSTC_WORKSPACE_WRAPPER", "clippy-driver"), ("CLIPPY_ARGS", "-Dwarnings")];
/// Parts of EDS that are looked at by themselves beside the tests; [`lint`] looks at each feature.
const PARTS: [&str; 4] = ["", "demo", "jetstream,postgres", "server"];
/// The Windows that is checked.
const WINDOWS: &str = "x86_64-pc-windows-gnu";
/// Tests that run at once. Most of them wait for servers and timers, so there are more than cores.
const TEST_THREADS: &str = "6";

/// `cargo test` with all features.
pub fn test(args: &[&str]) -> TaskResult {
    test_with(&[], args)
}

fn test_with(environment: &[(&str, &str)], args: &[&str]) -> TaskResult {
    let (cargo, harness) = match args.iter().position(|arg| *arg == "--") {
        Some(at) => (&args[..at], &args[at + 1..]),
        None => (args, &[][..]),
    };
    let scope: &[&str] = if cargo.is_empty() { &["--workspace", "--no-fail-fast"] } else { cargo };
    let has_threads = harness.iter().any(|arg| arg.starts_with("--test-threads"));
    let threads: &[&str] = if has_threads { &[] } else { &["--test-threads", TEST_THREADS] };
    let test = [&["test"], &ALL[..], scope, &["--"], threads, harness].concat();
    run_with(environment, "cargo", &test)
}

/// Runs the tests of `group`, one after the other, each for as many seconds as the first of `args`
/// says, and shows what they say.
pub fn lasting(group: &str, args: &[&str]) -> TaskResult {
    let seconds = args.first().copied().unwrap_or("300");
    println!("$ {group}: {seconds} s each");
    let status = Command::new("cargo")
        .arg("test")
        .args(ALL)
        .args(["--test", "it", "--", &format!("{group}::"), "--nocapture", "--test-threads", "1"])
        .env(format!("EDS_{}_SECONDS", group.to_uppercase()), seconds)
        .current_dir(root())
        .status()
        .map_err(|e| format!("cargo: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{group} found something")) }
}

/// What can be said of the code without running it.
pub fn lint() -> TaskResult {
    let clippy: &[&str] = &["clippy", "--workspace", "--all-targets"];
    run("cargo", &[clippy, &ALL[..], &["--", "-D", "warnings"]].concat())?;
    let each = ["hack", "clippy", "--locked", "-p", "eds", "--each-feature"];
    let composed = ["--exclude-features", "default,full,vendored", "--", "-D", "warnings"];
    run(&services::tool("cargo-hack"), &[&each[..], &composed[..]].concat())?;
    lint_beside_tests()
}

/// What of [`lint`] is left once the tests were [compiled by clippy](BY_CLIPPY), but for the
/// features alone: on a slow machine they take longer than the tests.
pub fn lint_beside_tests() -> TaskResult {
    run("cargo", &["fmt", "--all", "--check"])?;
    tsql()?;
    let deny = services::tool("cargo-deny");
    run(&deny, &["check", "bans", "licenses", "sources"])?;
    for part in PARTS {
        let features = ["--locked", "-p", "eds", "--no-default-features", "--features", part];
        run("cargo", &[&["clippy"], &features[..], &["--", "-D", "warnings"]].concat())?;
    }
    windows()
}

/// What is known to be wrong with the libraries. The database of that comes from the internet, so
/// this is a task of its own; deny.toml says what is known and why it does not matter here.
pub fn advisories() -> TaskResult {
    run(&services::tool("cargo-deny"), &["check", "advisories"])
}

/// Whether everything compiles for Windows. A machine that has no standard library of Rust for it,
/// or no C compiler, cannot tell, and says so.
pub fn windows() -> TaskResult {
    let platform = Platform::of(WINDOWS)?;
    if let Err(missing) = platform.can_be_built() {
        println!("windows: NOT CHECKED on this machine: {missing}");
        return Ok(());
    }
    println!("$ cargo check --target {WINDOWS}");
    let status = Command::new("cargo")
        .args(["check", "--locked", "--package", "eds", "--target", WINDOWS])
        .envs(platform.build_environment())
        .current_dir(root())
        .status()
        .map_err(|e| format!("cargo: {e}"))?;
    if status.success() { Ok(()) } else { Err("EDS does not compile for Windows".into()) }
}

/// Microsoft's parser reads all T-SQL: no SQL Server can be installed for the tests.
pub fn tsql() -> TaskResult {
    let (parser, python) = services::tsql_parser()?;
    let golden = "tests/golden/sqlserver.sql";
    run(&python, &["xtask/tsql.py", &parser.display().to_string(), golden])
}

/// Everything that has to pass. The servers are installed while the tests are compiled; the tests
/// run beside the rest of [`lint`], which yields the processor to them.
pub fn ci() -> TaskResult {
    let begun = Instant::now();
    let step = |name: &str, since: Instant, done: TaskResult| {
        println!("ci: {name} took {:?}, at {:?}", since.elapsed(), begun.elapsed());
        done
    };
    services::openssl()?;
    let build = [&["test", "--workspace", "--all-targets", "--no-run"], &ALL[..]].concat();
    let (installed, built) = std::thread::scope(|scope| {
        let services = scope.spawn(|| {
            let since = Instant::now();
            step("installing servers", since, services::install())
        });
        let since = Instant::now();
        let built = step("building tests", since, run_with(&BY_CLIPPY, "cargo", &build));
        (services.join().unwrap_or_else(|_| Err("installing servers failed".into())), built)
    });
    installed.and(built)?;
    let (linted, tested) = std::thread::scope(|scope| {
        let lint = scope.spawn(|| {
            let since = Instant::now();
            step("lint", since, run("nice", &["-n", "19", &this_program(), "lint-beside-tests"]))
        });
        let since = Instant::now();
        let tested = step("tests", since, test_with(&BY_CLIPPY, &[]));
        (lint.join().unwrap_or_else(|_| Err("lint failed".into())), tested)
    });
    tested.and(linted)
}

fn this_program() -> String {
    std::env::current_exe().map_or_else(|_| "cargo-x".into(), |path| path.display().to_string())
}
