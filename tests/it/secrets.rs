//! Secrets of every form: none is to be found where it does not belong.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::health::{address, get};
use crate::services::eds::{Running, binary};
use crate::services::eventually;
use crate::services::postgres::{self, PASSWORD};
use crate::services::site::{Site, unpacked};

/// Where a secret is planted: URLs of destinations, in the forms that people write, right and
/// wrong. Nobody listens on port 1 of this machine.
const PLANTED: [&str; 24] = [
    "postgres://user:{}@127.0.0.1:1/db",
    "postgres://user:{}@127.0.0.1:1/db?sslmode=require",
    "postgres://127.0.0.1:1/db?user=u&password={}",
    "postgres://user:a/{}@127.0.0.1:1/db",
    "postgres://user:12/{}@127.0.0.1:1/db",
    "postgres://user:12#{}@127.0.0.1:1/db",
    "postgres://user:12?{}@127.0.0.1:1/db",
    "postgres://user:a@b/{}@127.0.0.1:1/db",
    "postgres://user:p@127.0.0.1:1/db?password=a&{}",
    "postgres://user:p@127.0.0.1:1/db?{}=a",
    "mysql://user:{}@127.0.0.1:1/db",
    "mysql://user:{}@127.0.0.1:1/db?tls=skip-verify",
    "sqlserver://user:{}@127.0.0.1:1/db",
    "sqlserver://127.0.0.1:1?database=db&user+id=u&password={}",
    "snowflake://user:{}@127.0.0.1:1/db?protocol=http",
    "snowflake://user@127.0.0.1:1/db?protocol=http&authenticator=oauth&token={}",
    "s3://bucket/folder?region=eu&endpoint=http://127.0.0.1:1&access-key-id=A&secret-access-key={}&max-retries=1",
    "s3://bucket/folder?secret-access-key={}&endpoint=127.0.0.1:1&typo=1",
    "kafka://user:{}@127.0.0.1:1/topic?tls=false",
    "eventhub://127.0.0.1:1/;SharedAccessKeyName=n;SharedAccessKey={};EntityPath=h;UseDevelopmentEmulator=true",
    "eventhub://127.0.0.1:1/;SharedAccessKeyName=n;SharedAccessKey={}",
    "postgrs://user:{}@127.0.0.1:1/db",
    "user:{}@127.0.0.1:1/db",
    "{}",
];

const SECRETS: [&str; 2] = ["Zk7qWv9tXr", "Zk7qWv%2F9tXr%3D"];

/// Pieces of a secret that nothing may show: every four characters of it, encoded or not.
fn pieces(secret: &str) -> Vec<String> {
    let decoded = percent_encoding::percent_decode_str(secret).decode_utf8_lossy().into_owned();
    let windows = |text: &str| -> Vec<String> {
        let chars: Vec<char> = text.chars().collect();
        chars.windows(4).map(|window| window.iter().collect()).collect()
    };
    [windows(secret), windows(&decoded)].concat()
}

fn assert_clean(place: &str, text: &str, secret: &str) {
    for piece in pieces(secret) {
        assert!(!text.contains(&piece), "{place} holds {piece:?} of a secret:\n{text}");
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// `eds replay` with these variables and arguments.
fn replay(dir: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> String {
    std::fs::write(dir.join("journal.jsonl"), "").unwrap_or_else(|e| panic!("{e}"));
    std::fs::write(dir.join("schema.json"), "{}").unwrap_or_else(|e| panic!("{e}"));
    let mut command = Command::new(binary());
    command
        .current_dir(dir)
        .env_remove("EDS_URL")
        .args(["replay", "journal.jsonl", "--schema", "schema.json", "--verbose"])
        .args(["--log-file-sink", "eds.log"]);
    command.envs(variables.iter().copied()).args(arguments);
    let output = command.output().unwrap_or_else(|e| panic!("{e}"));
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

/// Output, logs and every file of a run hold nothing of the secret in the destination's URL,
/// whatever the form of the URL and whatever becomes of it.
#[test]
fn no_form_of_a_url_lets_its_secret_out() {
    std::thread::scope(|scope| {
        for form in PLANTED {
            scope.spawn(move || {
                for secret in SECRETS {
                    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
                    let url = form.replace("{}", secret);
                    let said = replay(dir.path(), &[("EDS_URL", &url)], &[]);
                    assert!(said.contains("eds:"), "{form} was taken:\n{said}");
                    assert_clean(form, &said, secret);
                    for file in files(dir.path()) {
                        let text = std::fs::read(&file).unwrap_or_default();
                        let text = String::from_utf8_lossy(&text);
                        assert_clean(&file.display().to_string(), &text, secret);
                    }
                }
            });
        }
    });
}

/// As an argument a secret is warned of, whatever its form, and not repeated.
#[test]
fn secrets_among_arguments_are_warned_of() {
    let warned = [
        "postgres://user:{}@127.0.0.1:1/db",
        "postgres://127.0.0.1:1/db?user=u&password={}",
        "s3://bucket/folder?endpoint=http://127.0.0.1:1&access-key-id=A&secret-access-key={}&max-retries=1",
        "eventhub://127.0.0.1:1/;SharedAccessKeyName=n;SharedAccessKey={}",
        "snowflake://user@127.0.0.1:1/db?protocol=http&authenticator=oauth&token={}",
    ];
    for (form, is_warned) in
        warned.map(|form| (form, true)).into_iter().chain([("sqlite://shop.db", false)])
    {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let url = form.replace("{}", SECRETS[0]);
        let said = replay(dir.path(), &[], &["--url", &url]);
        assert_eq!(said.contains("can be read by every user"), is_warned, "{form}:\n{said}");
        assert_clean(form, &said, SECRETS[0]);
    }
    let url = format!("postgres://user:{}@127.0.0.1:1/db", SECRETS[0]);
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    for wrong in [vec!["--ulr", &url], vec!["--port", &url], vec![url.as_str()]] {
        let said = replay(dir.path(), &[], &wrong);
        assert_clean("an error about arguments", &said, SECRETS[0]);
    }
}

/// The URL may be kept in a file that the environment names, or among systemd's credentials.
#[test]
fn a_url_is_found_where_secrets_are_kept() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, text: &str| {
        std::fs::write(path(name), text).unwrap_or_else(|e| panic!("{e}"));
    };
    write("by-file", "sqlite://by-file.db\n");
    write("EDS_URL", "sqlite://by-credential.db");
    let shown = |path: PathBuf| path.display().to_string();
    let credentials = dir.path().display().to_string();
    let by_credential = ("CREDENTIALS_DIRECTORY", credentials.as_str());
    replay(dir.path(), &[by_credential], &[]);
    assert!(path("by-credential.db").exists());
    assert!(!path("by-file.db").exists());
    let file = shown(path("by-file"));
    replay(dir.path(), &[by_credential, ("EDS_URL_FILE", &file)], &[]);
    assert!(path("by-file.db").exists());
    let file = shown(path("nothing-there"));
    let said = replay(dir.path(), &[("EDS_URL_FILE", &file)], &[]);
    assert!(said.contains("nothing-there that EDS_URL_FILE names cannot be read"), "{said}");
}

/// What EDS makes can be read by its owner only.
#[cfg(unix)]
#[test]
fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let other = dir.path().join("destination");
    std::fs::create_dir(&other).unwrap_or_else(|e| panic!("{e}"));
    let url = format!("sqlite://{}", other.join("shop.db").display());
    replay(dir.path(), &[("EDS_URL", &url)], &[]);
    let own = files(dir.path());
    let own = own.iter().filter(|file| !file.starts_with(&other));
    let own: Vec<_> = own.filter(|file| !file.ends_with("journal.jsonl")).collect();
    let own: Vec<_> = own.into_iter().filter(|file| !file.ends_with("schema.json")).collect();
    assert!(own.len() >= 3, "{own:?}");
    for file in own {
        let mode = std::fs::metadata(file).map_or(0, |data| data.permissions().mode());
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", file.display());
    }
}

/// A server whose key and URL are in files, and whose NATS has a login in its URL.
struct Planted {
    site: Site,
    server: Running,
    /// Of the status.
    address: String,
    /// The last is the one of NATS.
    secrets: Vec<String>,
}

impl Planted {
    async fn start() -> Planted {
        let site = Site::new("planted", 83).await;
        site.enroll().await;
        let (_, url) = postgres::shared().database().await;
        let _ = std::fs::remove_file(site.data_dir().join("config.toml"));
        let token = site.hq.tokens().pop().unwrap_or_default();
        let kept = site.dir.path().join("kept");
        std::fs::create_dir(&kept).unwrap_or_else(|e| panic!("{e}"));
        for (name, text) in [("EDS_URL", &url), ("key", &token)] {
            std::fs::write(kept.join(name), text).unwrap_or_else(|e| panic!("{e}"));
        }
        let login = format!("nats://planted:{}@", SECRETS[0]);
        let servers = site.nats.url().replace("nats://", &login);
        let schemas = format!("{}/v3/schema?token={}", site.hq.url(), SECRETS[0]);
        let words = ["server", "--port", "0", "--server", &servers, "--eds-id", "planted", "-v"];
        let mut command = site.command_of(Path::new(binary()), &words);
        command
            .args(["--api-url", site.hq.url()])
            .env("CREDENTIALS_DIRECTORY", &kept)
            .env("EDS_SCHEMA", &schemas)
            .env("SM_APIKEY_FILE", kept.join("key"));
        let server = Running::start(command, site.dir.path().join("server.log"));
        site.until_log("streaming eds-planted", 1).await;
        let address = address(&site.log()).unwrap_or_else(|| panic!("{}", site.log()));
        let encoded = url.split([':', '@']).nth(2).unwrap_or_default().to_owned();
        let secrets = vec![token, PASSWORD.to_owned(), encoded, SECRETS[0].to_owned()];
        Planted { site, server, address, secrets }
    }

    fn assert_absent(&self, place: &str, text: &str) {
        absent(place, text, &self.secrets);
    }

    /// Arguments and environments of both processes.
    fn assert_processes_are_clean(&self) {
        let of_process = |pid: u32, what: &str| {
            let bytes = std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            assert!(!bytes.is_empty(), "{what} of {pid}");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (server, worker) = (self.server.pid(), Site::worker(&self.server));
        self.assert_absent("the worker's arguments", &of_process(worker, "cmdline"));
        self.assert_absent("the worker's environment", &of_process(worker, "environ"));
        // The variable with the token is the one that somebody gave.
        absent("the server's environment", &of_process(server, "environ"), &self.secrets[..3]);
        // The login of NATS is an argument that somebody gave, and was warned of.
        absent("the server's arguments", &of_process(server, "cmdline"), &self.secrets[..3]);
        let log = self.site.log();
        assert!(log.contains("the secret in --server can be read"), "{log}");
    }
}

fn absent(place: &str, text: &str, secrets: &[String]) {
    for secret in secrets {
        assert!(!text.contains(secret.as_str()), "{place} holds {secret:?}:\n{text}");
    }
}

/// Neither process shows a secret, in arguments, environment, files, logs, uploads, status, metrics
/// or what HQ is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_keeps_the_secrets_that_it_is_given() {
    let planted = Planted::start().await;
    let site = &planted.site;
    site.publish(30).await;
    eventually("changes arrive", Duration::from_secs(30), async || {
        get(&planted.address, "/metrics").await.1.contains("eds_total_events 30")
    })
    .await;
    planted.assert_processes_are_clean();
    for path in ["/", "/livez", "/readyz", "/metrics", "/status.json", "/ui"] {
        planted.assert_absent(path, &get(&planted.address, path).await.1);
    }
    let session = site.session(0).await;
    site.order(&session, "sendlogs", serde_json::Value::Null).await;
    for said in site.hq_nats.heard() {
        planted.assert_absent(&said.topic, &String::from_utf8_lossy(&said.payload));
    }
    let Planted { site, server, secrets, .. } = planted;
    assert!(server.stop().status.success());
    absent("the log", &site.log(), &secrets);
    let records = site.hq.sessions();
    assert!(records.iter().any(|record| !record.uploads.is_empty()));
    for record in records {
        absent("what HQ is told", &record.said.to_string(), &secrets);
        for upload in &record.uploads {
            absent("an upload", &unpacked(&upload.bytes), &secrets);
        }
    }
    for file in files(&site.data_dir()) {
        let text = std::fs::read(&file).unwrap_or_default();
        absent(&file.display().to_string(), &String::from_utf8_lossy(&text), &secrets);
    }
}
