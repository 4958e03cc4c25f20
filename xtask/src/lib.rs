//! What the project's tasks and its tests share: how programs are run, and how EDS is packaged.

pub mod package;

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What went wrong, for people.
pub type TaskResult = Result<(), String>;

/// The root of the project.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(PathBuf::from).unwrap_or_default()
}

/// Runs a program in the root of the project and expects success.
pub fn run(program: &str, args: &[&str]) -> TaskResult {
    run_with(&[], program, args)
}

/// As [`run`], with these variables in the environment.
pub fn run_with(environment: &[(&str, &str)], program: &str, args: &[&str]) -> TaskResult {
    println!("$ {program} {}", args.join(" "));
    let status = Command::new(program)
        .args(args)
        .envs(environment.iter().copied())
        .current_dir(root())
        .status()
        .map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} {} failed", args.join(" "))) }
}

/// What a program prints, run in the root of the project; its success is expected.
pub fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .current_dir(root())
        .output()
        .map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name} {}: {}", output.status, said.trim()))
}
