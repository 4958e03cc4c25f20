//! The project's own tasks: `cargo x services | test | ci | bench NAME`. Needs nothing but Rust to
//! begin with.

mod services;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

const HELP: &str = "cargo x <task>

  services         install the servers that the tests need (nats-server, PostgreSQL, MySQL, MariaDB)
  test [ARGS]      services, then cargo test [ARGS]
  tsql             let Microsoft's parser read the T-SQL of tests/golden/sqlserver.sql
  ci               services, format, clippy, tests, T-SQL, single features, cargo deny
  bench NAME [N]   services, then a benchmark: stream, import, latency, decode, postgres_paths, \
                    mysql_paths, sqlite_paths";

/// What went wrong, for people.
pub type TaskResult = Result<(), String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let done = match args.first().map(String::as_str) {
        Some("services") => services::install(),
        Some("test") => test(&rest),
        Some("tsql") => tsql(),
        Some("ci") => ci(),
        Some("bench") => bench(&rest),
        _ => {
            println!("{HELP}");
            return ExitCode::from(3);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("cargo x: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the project.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(PathBuf::from).unwrap_or_default()
}

/// Runs a program in the root of the project and expects success.
pub fn run(program: &str, args: &[&str]) -> TaskResult {
    println!("$ {program} {}", args.join(" "));
    let status = Command::new(program)
        .args(args)
        .current_dir(root())
        .status()
        .map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} {} failed", args.join(" "))) }
}

fn test(args: &[&str]) -> TaskResult {
    services::install()?;
    run("cargo", &[&["test"], args].concat())
}

fn bench(args: &[&str]) -> TaskResult {
    let Some((name, rest)) = args.split_first() else {
        return Err("which benchmark: stream, changes, import, latency, decode, postgres_paths, \
                    mysql_paths or sqlite_paths?"
            .into());
    };
    services::install()?;
    run("cargo", &[&["bench", "--bench", name, "--"], rest].concat())
}

fn tsql() -> TaskResult {
    let (parser, python) = services::tsql_parser()?;
    run(&python, &["xtask/tsql.py", &parser.display().to_string(), "tests/golden/sqlserver.sql"])
}

fn ci() -> TaskResult {
    services::install()?;
    tsql()?;
    run("cargo", &["fmt", "--all", "--check"])?;
    run(
        "cargo",
        &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
    )?;
    for features in [
        "postgres",
        "mysql",
        "sqlserver",
        "snowflake",
        "s3",
        "s3,parquet",
        "kafka",
        "eventhubs",
        "sqlite",
        "file",
        "jetstream",
        "http",
        "server",
        "validator",
        "demo",
    ] {
        run(
            "cargo",
            &["clippy", "--no-default-features", "--features", features, "--", "-D", "warnings"],
        )?;
    }
    run("cargo", &["test", "--workspace", "--no-fail-fast"])?;
    services::cargo_deny()?;
    // Advisories need a database from outside; they are looked at by hand: `cargo deny check
    // advisories`.
    run("target/services/bin/cargo-deny", &["check", "bans", "licenses", "sources"])
}
