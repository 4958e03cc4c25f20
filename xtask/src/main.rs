//! The project's own tasks; `cargo x` lists them. The program is built from Rust's standard library
//! alone, and installs what its tasks need.

mod bench;
mod ci;
mod release;
mod services;

use std::process::ExitCode;

use xtask::{TaskResult, output, root, run, run_with};

const HELP: &str = "cargo x <task>

  services         install the servers and tools that the tests need
  test [ARGS]      services, then cargo test [ARGS]
  lint             format, clippy of everything and of each feature alone, T-SQL, cargo deny
  advisories       look up what is known to be wrong with the libraries; needs the internet
  windows          check that EDS compiles for Windows, if this machine has what that needs
  release [--key GPG-KEY] [--to DIR] [--target TARGET]... [--program FILE]
                   builds EDS for each platform that this machine can build for, and makes
                   archives, Debian packages, bills of materials, checksums and signatures
  rootfs PROGRAM DIR
                   the root file system of the container image
  tsql             let Microsoft's parser read the T-SQL of tests/golden/sqlserver.sql
  ci               services, tests and lint; prints how long each step took
  chaos [SECONDS]  services, then storms of faults over real servers, each that long
  fuzz [SECONDS]   everything that reads foreign bytes, each that long
  bench [--again NAME...]
                   services, then all comparisons, or these; writes docs/benchmarks.md
  bench NAME [N]   services, then a benchmark: stream, changes, import, verify,
                   latency, distance, decode, postgres_paths, mysql_paths, sqlite_paths";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let done = match args.first().map(String::as_str) {
        Some("services") => services::install(),
        Some("test") => services::install().and_then(|()| ci::test(&rest)),
        Some("lint") => services::install().and_then(|()| ci::lint()),
        Some("lint-beside-tests") => ci::lint_beside_tests(),
        Some("tsql") => ci::tsql(),
        Some("advisories") => services::install_tools().and_then(|()| ci::advisories()),
        Some("windows") => ci::windows(),
        Some("release") => release::release(&rest),
        Some("rootfs") => release::rootfs(&rest),
        Some("ci") => ci::ci(),
        Some("chaos") => services::install().and_then(|()| ci::lasting("chaos", &rest)),
        Some("fuzz") => ci::lasting("fuzz", &rest),
        Some("bench") => bench::bench(&rest),
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
