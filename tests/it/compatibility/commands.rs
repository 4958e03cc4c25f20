//! The command lines that the Go program's documents show, run as a shell runs them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::services::eds::{Running, binary};
use crate::services::hq::said;
use crate::services::postgres::shared;
use crate::services::site::Site;

/// How a command line ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Course {
    /// By itself, with 0, and says this.
    Says(&'static str),
    /// It serves, with this in its log, until SIGTERM ends it with 0.
    Serves(&'static str),
}

/// A command line of the documents, what stands for its examples here, and its course. `ENROLLED`
/// marks what needs an enrolment before; addresses of the test's servers are put behind it.
type Documented = (&'static str, &'static [(&'static str, &'static str)], Course);

const HQ: &str = " --api-url $HQ";
const SERVERS: &str = " --server $NATS --port 0 --api-url $HQ";

/// In the order in which a customer comes to them.
const COMMANDS: &[Documented] = &[
    ("eds", &[], Course::Says("Usage: eds")),
    ("eds help", &[], Course::Says("Usage: eds")),
    ("eds version", &[], Course::Says(env!("CARGO_PKG_VERSION"))),
    ("eds publickey", &[], Course::Says("BEGIN PGP PUBLIC KEY BLOCK")),
    ("eds server help", &[], Course::Says("postgres://")),
    ("eds server help s3", &[], Course::Says("access-key-id")),
    ("eds enroll CODE", &[("CODE", "L-one")], Course::Says("Enrolled as server documented")),
    (
        "eds import --api-key 123 --url \"postgresql://admin:root@localhost:5432/test?sslmode=disable\"",
        &[("123", "$KEY"), ("postgresql://admin:root@localhost:5432/test", "$POSTGRES")],
        Course::Says("total"),
    ),
    (
        "eds server --data-dir /var/data --verbose",
        &[("/var/data", "$DATA")],
        Course::Serves("this server has no destination yet"),
    ),
    (
        "eds server -v --url \"file://./test-output\"",
        &[],
        Course::Serves("streaming eds-documented into file"),
    ),
];

/// Every one of them does what the documents say.
#[tokio::test(flavor = "multi_thread")]
async fn documented_commands_do_what_they_did() {
    let site = Site::with_history("documented", 94, 200).await;
    let (_, postgres) = shared().database().await;
    for (line, substitutes, course) in COMMANDS {
        let mut words = substitutes
            .iter()
            .fold((*line).to_owned(), |line, (example, real)| line.replacen(example, real, 1));
        match line {
            line if line.starts_with("eds enroll") => words += HQ,
            line if line.starts_with("eds import") => words += &format!("{HQ} --no-confirm"),
            line if line.starts_with("eds server -") => words += SERVERS,
            _ => {}
        }
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("exec {words}")])
            .current_dir(site.dir.path())
            .env("PATH", format!("{}:/usr/bin:/bin", program_folder()))
            .env("HQ", site.hq.url())
            .env("NATS", site.nats.url())
            .env("KEY", site.hq.tokens().pop().unwrap_or_default())
            .env("POSTGRES", postgres.split('?').next().unwrap_or_default())
            .env("DATA", site.dir.path().join("data"))
            .stdin(Stdio::null());
        for name in ["EDS_URL", "SM_APIKEY", "PORT", "EDS_BIND", "RUST_LOG"] {
            command.env_remove(name);
        }
        match course {
            Course::Says(text) => {
                let output = tokio::task::spawn_blocking(move || command.output()).await;
                let output = output.unwrap_or_else(|e| panic!("{e}"));
                let output = output.unwrap_or_else(|e| panic!("{words}: {e}"));
                let said = said(&output);
                assert!(output.status.success() && said.contains(text), "{words}:\n{said}");
            }
            Course::Serves(text) => {
                let log = site.dir.path().join(format!("{}.log", text.len()));
                let running = Running::start(command, log);
                running.until_log(text, Duration::from_secs(60)).await;
                let ended = running.stop();
                assert!(ended.status.success(), "{words}:\n{}", ended.log);
            }
        }
    }
}

fn program_folder() -> String {
    let folder = Path::new(binary()).parent().unwrap_or(Path::new("."));
    folder.display().to_string()
}

/// The table in the documents has these lines, and no others.
#[test]
fn the_table_of_commands_is_what_is_run() {
    let text = include_str!("../../../docs/compatibility.md");
    let section = text.split("## Its documented commands").nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let shown: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter(|line| line.contains("documented_commands_do_what_they_did"))
        .filter_map(|line| line.split('`').next())
        .collect();
    let run: Vec<&str> = COMMANDS.iter().map(|(line, ..)| *line).collect();
    assert_eq!(shown, run);
}
