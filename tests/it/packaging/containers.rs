//! The files for Compose and Kubernetes: what they start is what there is.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use xtask::package::rootfs::{DATA, USER};

use super::image::Image;
use super::{are_known, done, python, text_of, words, yaml};
use crate::services::eds::Running;
use crate::services::{installed, until_ok};

/// Kubernetes' own schemas accept the objects.
#[test]
fn kubernetes_accepts_the_objects() {
    let script = "import sys, yaml, kubernetes_validate as k\nfor version in sys.argv[2:]:\n  for \
                  object in yaml.safe_load_all(open(sys.argv[1])): k.validate(object, version, \
                  strict=True)";
    let file = super::project("packaging/kubernetes/eds.yaml");
    done(python().args(["-c", script]).arg(file).args(["1.27", "1.31"]));
}

/// The pod runs the image's user on a read-only root, and starts a command of EDS.
#[test]
fn the_pod_fits_the_image() {
    let objects = yaml("packaging/kubernetes/eds.yaml");
    let set = objects.iter().find(|o| o["kind"] == "StatefulSet").cloned().unwrap_or_default();
    assert_eq!(set["spec"]["replicas"], 1, "one consumer at a time");
    let pod = &set["spec"]["template"]["spec"];
    for id in ["runAsUser", "runAsGroup", "fsGroup"] {
        assert_eq!(pod["securityContext"][id], USER);
    }
    assert!(pod["terminationGracePeriodSeconds"].as_u64().is_some_and(|seconds| seconds >= 30));
    let container = &pod["containers"][0];
    let security = &container["securityContext"];
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["capabilities"]["drop"][0], "ALL");
    assert_eq!(container["image"], format!("eds:{}", env!("CARGO_PKG_VERSION")));
    let args = words(&container["args"]);
    are_known(&args);
    let mounts: Vec<&str> = container["volumeMounts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|mount| mount["mountPath"].as_str())
        .collect();
    let data = args.iter().position(|arg| *arg == "--data-dir").map(|at| args[at + 1]);
    let data = data.unwrap_or_default();
    // Only the mount point itself belongs to the pod's group: what a runtime makes within a volume,
    // to mount a file there, belongs to root.
    assert!(data.starts_with(&format!("/{DATA}/")) && mounts.contains(&data), "{mounts:?}");
    assert!(mounts.contains(&"/tmp"));
    let config = format!("{data}/config.toml");
    assert!(mounts.contains(&config.as_str()), "the enrolment is where the server reads it");
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let asked = &container[probe]["httpGet"];
        assert_eq!((asked["path"].as_str(), asked["port"].as_str()), (Some(path), Some("status")));
    }
    assert_eq!(container["ports"][0], serde_json::json!({"name": "status", "containerPort": 8080}));
}

/// The services that are ours.
const OURS: [&str; 3] = ["sandbox", "enroll", "eds"];

/// Compose starts commands of EDS, confined, from stages that the Containerfile has.
#[test]
fn the_composition_fits_the_image() {
    let file = yaml("compose.yaml").into_iter().next().unwrap_or_default();
    let stages = text_of("Containerfile");
    for name in OURS {
        let service = &file["services"][name];
        are_known(&words(&service["command"]));
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(words(&service["cap_drop"]), ["ALL"], "{name}");
        if let Some(target) = service["build"]["target"].as_str() {
            assert!(stages.contains(&format!(" AS {target}\n")), "{target}");
        }
        for (other, _) in service["depends_on"].as_object().into_iter().flatten() {
            assert!(file["services"][other].is_object(), "{name} depends on {other}");
        }
        for volume in words(&service["volumes"]) {
            let (volume, place) = volume.split_once(':').unwrap_or_default();
            assert!(file["volumes"].as_object().is_some_and(|all| all.contains_key(volume)));
            assert_eq!(place, format!("/{DATA}"));
        }
    }
    for name in ["enroll", "eds"] {
        assert_eq!(file["services"][name]["network_mode"], "service:sandbox");
    }
    let url = file["services"]["eds"]["environment"]["EDS_URL"].as_str().unwrap_or_default();
    let postgres = &file["services"]["postgres"]["environment"];
    let part = |name: &str| postgres[name].as_str().unwrap_or_default().to_owned();
    let expected = format!(
        "postgres://{}:{}@postgres:5432/{}?sslmode=disable",
        part("POSTGRES_USER"),
        part("POSTGRES_PASSWORD"),
        part("POSTGRES_DB")
    );
    assert_eq!(url, expected);
}

/// The composition's own commands, in one network as there, from an empty volume to a stream. Two
/// things differ: the programs are this machine's processes, and the destination is a file, because
/// PostgreSQL is not in that network.
#[test]
fn the_compositions_commands_come_to_a_stream() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let image = Image::in_folder(dir.path());
    let file = yaml("compose.yaml").into_iter().next().unwrap_or_default();
    let command = |name: &str| words_of(&file["services"][name]["command"]);
    let path = installed("nats-server").parent().map(|dir| dir.display().to_string());
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", path.unwrap_or_default());
    let script = "ip link set lo up; SANDBOX & tries=0; until ENROLL; do tries=$((tries + 1)); [ \
                  $tries -lt 100 ] || exit 9; sleep 0.2; done; EDS";
    let contained = |words: &[String]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        shell_words(&image.command(&words))
    };
    let sandbox = format!("{} {}", crate::services::eds::binary(), command("sandbox").join(" "));
    let mut composed = Command::new("unshare");
    composed
        .args(["--net", "--pid", "--fork", "--kill-child", "sh", "-c"])
        .arg(
            script
                .replace("SANDBOX", &sandbox)
                .replace("ENROLL", &contained(&command("enroll")))
                .replace("EDS", &contained(&command("eds"))),
        )
        .env("PATH", path)
        .env("EDS_URL", "sqlite://shop.db");
    let running = Running::start(composed, dir.path().join("log"));
    until_ok(Duration::from_secs(90), || {
        let log = running.log();
        if log.contains("streaming eds-sandbox-1 into") { Ok(()) } else { Err(log) }
    });
    let rows = || {
        let shop = rusqlite::Connection::open(dir.path().join("volume/shop.db")).ok()?;
        shop.query_row("SELECT stream_sequence FROM _eds_checkpoint", [], |row| {
            row.get::<_, i64>(0)
        })
        .ok()
    };
    until_ok(Duration::from_secs(60), || {
        rows().filter(|sequence| *sequence > 10).ok_or_else(|| running.log())
    });
}

fn words_of(list: &Value) -> Vec<String> {
    words(list).into_iter().map(str::to_owned).collect()
}

/// A command as a shell reads it.
fn shell_words(command: &Command) -> String {
    let quoted =
        |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"));
    let program = quoted(command.get_program());
    let words = command.get_args().map(quoted);
    std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
}
