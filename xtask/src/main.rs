//! The project's own tasks; `cargo x` lists them. The program is built from Rust's standard library
//! alone, and installs what its tasks need.

mod ci;
mod services;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

const HELP: &str = "cargo x <task>

  services         install the servers and tools that the tests need
  test [ARGS]      services, then cargo test [ARGS]
  lint             format, clippy of everything and of each feature alone, T-SQL, cargo deny
  tsql             let Microsoft's parser read the T-SQL of tests/golden/sqlserver.sql
  ci               services, tests and lint; prints how long each step took
  chaos [SECONDS]  services, then storms of faults over real servers, each that long
  fuzz [SECONDS]   everything that reads foreign bytes, each that long
  bench NAME [N]   services, then a benchmark: stream, changes, import, latency, decode,
                   postgres_paths, mysql_paths, sqlite_paths";

/// What went wrong, for people.
pub type TaskResult = Result<(), String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let done = match args.first().map(String::as_str) {
        Some("services") => services::install(),
        Some("test") => services::install().and_then(|()| ci::test(&rest)),
        Some("lint") => services::install().and_then(|()| ci::lint()),
        Some("tsql") => ci::tsql(),
        Some("ci") => ci::ci(),
        Some("chaos") => services::install().and_then(|()| ci::lasting("chaos", &rest)),
        Some("fuzz") => ci::lasting("fuzz", &rest),
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

fn bench(args: &[&str]) -> TaskResult {
    let Some((name, rest)) = args.split_first() else {
        return Err(format!("which benchmark?\n\n{HELP}"));
    };
    services::install()?;
    run("cargo", &[&["bench", "--locked", "--bench", name, "--"], rest].concat())
}
