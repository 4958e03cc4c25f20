//! What EDS is installed with: releases, Debian packages, the image, and the files that describe a
//! service, a composition of containers and a cluster.

mod containers;
mod debian;
mod health;
mod image;
mod release;
mod systemd;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::services::eds::binary;
use crate::services::hq::said;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text_of(path: &str) -> String {
    let path = project(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What a program does, which has to end well.
fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?} {}\n{}", output.status, said(&output));
    output
}

/// The words after `eds` are ones that it knows, with values that they can have.
fn are_known(words: &[&str]) {
    let mut command = Command::new(binary());
    command.args(words).arg("--help").env_remove("PORT").env_remove("EDS_BIND");
    done(&mut command);
}

/// The documents of a YAML file.
fn yaml(path: &str) -> Vec<Value> {
    let script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1\
                  ])))))";
    let output = done(python().args(["-c", script]).arg(project(path)));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The Python that `cargo x services` gave the libraries to read such files.
fn python() -> Command {
    Command::new(project("target/services/packaging/bin/python"))
}

/// The texts of a list.
fn words(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
